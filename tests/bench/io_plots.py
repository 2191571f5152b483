# SPDX-License-Identifier: GPL-2.0-only
"""The plots of tests/bench/io, by gnuplot."""

import math
import os
import subprocess

from io_tables import CLONES, NAMES, size

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
set bmargin 11
set rmargin 20
"""

LINES = """set style data linespoints
set logscale x 2
set logscale y {base}
set xlabel "{xlabel}"
set ylabel "{ylabel}"
"""

POWERS_OF_2 = """set format x "2^{%L}"
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
    return found[name] / part if name in found else math.nan


def cost(rows, folder):
    names = ("ours", "peer", "thin", "snapshot")
    draw(os.path.join(folder, "io-cost.svg"), "Instructions an operation", BARS,
         ["", *(NAMES[name] for name in names)],
         [[row["name"], *(value(row["ns"], name, row["ns"]["linear"]) for name in names)]
          for row in rows])


def mib_per_second(row, name):
    """At an instruction a ns."""
    return row["io_kib"] / 1024 / (row["ns"][name] / 1e9) if name in row["ns"] else math.nan


def throughput(rows, path, title, key, xlabel):
    draw(path, title, LINES.format(base=10, xlabel=xlabel, ylabel="MiB/s at an instruction a ns"),
         ["", *(NAMES[name] for name in ("linear", *CLONES))],
         [[row[key], *(mib_per_second(row, name) for name in ("linear", *CLONES))]
          for row in rows])


def sweep(rows, folder):
    for op in ("read", "write"):
        for region_kib in (4, 64):
            throughput([row for row in rows if row["op"] == op and row["region_kib"] == region_kib],
                       os.path.join(folder, f"io-size-{op}-{region_kib}k.svg"),
                       f"Unhydrated random {op}, regions of {size(region_kib)}",
                       "io_kib", "I/O size, KiB")
        for io_kib in (4, 1024):
            throughput([row for row in rows if row["op"] == op and row["io_kib"] == io_kib],
                       os.path.join(folder, f"io-region-{op}-{io_kib}k.svg"),
                       f"Unhydrated random {op} of {size(io_kib)}",
                       "region_kib", "region size, KiB")


def scale(rows, folder):
    for key, unit, what in (("activate_ns", 1e6, "activation, ms"), ("memory_kib", 1024, "MiB"),
                            ("status_ns", 1000, "status, us")):
        draw(os.path.join(folder, f"io-scale-{key.split('_')[0]}.svg"),
             f"Over the size of the device: {what}",
             LINES.format(base=10, xlabel="regions", ylabel=what) + POWERS_OF_2,
             ["", *(NAMES[name] for name in CLONES)],
             [[2 ** row["exponent"], *(value({n: r[key] for n, r in row["results"].items()},
                                             name, unit) for name in CLONES)] for row in rows])


def draw_all(results, folder):
    for make in (cost, sweep, scale):
        if make.__name__ in results:
            make(results[make.__name__], folder)
