# SPDX-License-Identifier: GPL-2.0-only
"""The plots of tests/bench/io, by gnuplot.

draw() and draw_plain() make files in a folder and tell their names: {table: names}.
"""

import itertools
import math
import os
import subprocess

from io_tables import CLONES, NAMES, SCALE_IO, by_cpus, size, speed

HEAD = """set terminal svg size 960,540 dynamic background "white" font "sans-serif,13"
set output "{path}"
set title "{title}"
set grid y
set key outside right top
"""

BARS = """set style data histogram
set style histogram clustered gap 1
set style fill solid 0.9 border -1
set xtics rotate by -35 scale 0
set logscale y 2
set yrange [0.8:]
set ylabel "divided by linear"
set bmargin 12
set rmargin 24
"""

LINES = """set style data linespoints
set logscale x 2
set logscale y {base}
set xlabel "{xlabel}"
set ylabel "{ylabel}"
"""

POWERS_OF_2 = """set format x "2^{%L}"
"""
FROM_ZERO = """unset logscale y
set yrange [0:]
"""
FEW_CPUS = FROM_ZERO + """set xtics (1, 2, 4)
"""


def draw(path, title, style, columns, rows):
    """Columns but the first are drawn, over the first, which holds labels or numbers.

    One without any value is left out: gnuplot does not take it.
    """
    labels = style is BARS
    lines = ["$data << END"]
    lines += [" ".join(f'"{cell}"' if isinstance(cell, str) else str(cell) for cell in row)
              for row in rows]
    lines.append("END")
    x = "{0}:xtic(1)" if labels else "1:{0}"
    plots = [f'$data using {x.format(i)} title "{name}"'
             for i, name in enumerate(columns[1:], 2)
             if not all(math.isnan(row[i - 1]) for row in rows)]
    script = HEAD.format(path=path, title=title) + style + "\n".join(lines) + \
        "\nplot " + ", ".join(plots) + "\n"
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def value(found, name, part=1):
    return found[name] / part if found.get(name) else math.nan


def lines(xlabel, ylabel, more=""):
    return LINES.format(base=10, xlabel=xlabel, ylabel=ylabel) + more


def cost(rows, folder):
    names = ("ours", "peer", "thin", "snapshot")
    draw(os.path.join(folder, "io-cost.svg"), "Instructions an operation", BARS,
         ["", *(NAMES[name] for name in names)],
         [[row["name"], *(value(row["ns"], name, row["ns"]["linear"]) for name in names)]
          for row in rows])
    return ["io-cost.svg"]


def background(rows, folder):
    draw(os.path.join(folder, "io-background.svg"), "The background copy: instructions", BARS,
         ["", *(NAMES[name] for name in CLONES)],
         [[f"regions of {size(row['region_kib'])}",
           *(value(row["ns"], name, row["ns"]["linear"]) for name in CLONES)] for row in rows])
    return ["io-background.svg"]


def mib_per_second(row, name):
    """At an instruction a ns."""
    return row["io_kib"] / 1024 / (row["ns"][name] / 1e9) if name in row["ns"] else math.nan


def throughput(rows, path, title, key, fixed, xlabel):
    """Over the key; for each target and each value of fixed, (key, some of its values)."""
    by_point = {(row[key], row[fixed[0]]): row for row in rows}
    lines_of = [(name, value_) for value_ in fixed[1] for name in ("linear", *CLONES)]
    draw(path, title, lines(xlabel, "MiB/s at an instruction a ns"),
         ["", *(f"{NAMES[name]}, {size(value_)}" for name, value_ in lines_of)],
         [[x, *(mib_per_second(by_point[x, value_], name) for name, value_ in lines_of)]
          for x in sorted({row[key] for row in rows})])


def sweep(rows, folder):
    made = []
    for state, op in itertools.product(("unhydrated", "hydrated"), ("read", "write")):
        chosen = [row for row in rows if row["state"] == state and row["op"] == op]
        for what, key, fixed, label in (
                ("size", "io_kib", "region_kib", "I/O size"),
                ("region", "region_kib", "io_kib", "region size")):
            made.append(f"io-{what}-{state}-{op}.svg")
            throughput(chosen, os.path.join(folder, made[-1]),
                       f"Random {op} of what is {state}, over {label}", key,
                       (fixed, (4, 64) if what == "size" else (4, 1024)), f"{label}, KiB")
    return made


def commit(rows, folder):
    def ns(nr, scattered, name):
        found, = (row["results"].get(name) for row in rows
                  if row["dirty"] == nr and row["scattered"] == scattered)
        return found["ns"] / 1000 if found else math.nan

    kinds = [(scattered, name) for scattered in (False, True) for name in CLONES]
    draw(os.path.join(folder, "io-commit.svg"), "A commit, over what has changed",
         lines("regions", "us"),
         ["", *(f"{NAMES[name]}, {'scattered' if scattered else 'clustered'}"
                for scattered, name in kinds)],
         [[nr, *(ns(nr, *kind) for kind in kinds)]
          for nr in sorted({row["dirty"] for row in rows})])
    return ["io-commit.svg"]


def scale_line(rows, folder, what, title, ylabel, of):
    """of(what was found of a module) is the value."""
    name = f"io-scale-{what}.svg"
    draw(os.path.join(folder, name), f"Over the size of the device: {title}",
         lines("regions", ylabel, POWERS_OF_2), ["", *(NAMES[module] for module in CLONES)],
         [[2 ** row["exponent"], *(of(row["results"][module]) if module in row["results"]
                                   else math.nan for module in CLONES)] for row in rows])
    return name


def commit_us(found):
    return found["commit"]["1000"]["ns"] / 1000 if found["commit"]["1000"] else math.nan


def scale_io(rows, folder):
    kinds = [(what, name) for what in SCALE_IO[-2:] for name in ("linear", *CLONES)]
    draw(os.path.join(folder, "io-scale-io.svg"), "Over the size of the device: I/O of 4k",
         lines("regions", "instructions", POWERS_OF_2 + FROM_ZERO),
         ["", *(f"{NAMES[name]}, {what}" for what, name in kinds)],
         [[2 ** row["exponent"], *(row["results"][name]["io"][what]
                                   if name in row["results"] else math.nan
                                   for what, name in kinds)] for row in rows])
    return "io-scale-io.svg"


def scale(rows, folder):
    rows = [row for row in rows if row["region_kib"] == 4]
    return [scale_line(rows, folder, what, *rest) for what, *rest in (
        ("activate", "activation", "ms", lambda found: found["activate_ns"] / 1e6),
        ("memory", "memory", "MiB", lambda found: found["memory_kib"] / 1024),
        ("status", "a status", "us", lambda found: found["status_ns"] / 1000),
        ("commit", "a commit of 1000 regions", "us", commit_us))] + [scale_io(rows, folder)]


def draw_tables(results, folder):
    os.makedirs(folder, exist_ok=True)
    return {make.__name__: make(results[make.__name__], folder)
            for make in (cost, background, sweep, commit, scale) if make.__name__ in results}


def draw_plain(machines, folder):
    """Operations a second over CPUs, by the most jobs."""
    os.makedirs(folder, exist_ok=True)
    made = []
    most = max(row["jobs"] for machine in machines for row in machine["jobs"])
    for (name, load, jobs), rows in by_cpus(machines).items():
        if jobs != most or not name.startswith("hydrated 4k"):
            continue
        made.append(f"io-plain-{name.split()[-1]}.svg")
        targets = ["linear", *(target for target in CLONES
                               if target in next(iter(rows.values()))["results"])]
        draw(os.path.join(folder, made[-1]), f"{name}, {jobs} {load}",
             lines("CPUs", "thousands a second", FEW_CPUS),
             ["", *(NAMES[target] for target in targets)],
             [[cpus, *(speed(rows[cpus], target) / 1000 for target in targets)]
              for cpus in sorted(rows)])
    return {"plain": made}
