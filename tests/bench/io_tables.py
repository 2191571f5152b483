# SPDX-License-Identifier: GPL-2.0-only
"""The tables of tests/bench/io, from its results."""

import collections
import os

from tables import provenance, table, title

NAMES = {"linear": "linear", "ours": "this one", "peer": "kernel's own", "thin": "thin",
         "snapshot": "snapshot"}
CLONES = ("ours", "peer")
COPY_GOAL = 1.10
SHARED_COMMITS_GOAL = 0.50
SCALE_GOAL = 30                 # times as fast as the kernel's own
BITS_GOAL = 1.1


def number(value, digits=0):
    return "-" if value is None else f"{value:.{digits}f}"


def significant(value):
    """Three digits, or all of those before the point."""
    return number(value, 0 if value >= 100 else 1 if value >= 10 else 2)


def ratio(value, reference):
    return f"{value / reference:.2f}" if value is not None and reference else "-"


def verdict(value, goal):
    """The goal, and whether it is met."""
    if goal is None:
        return "-"
    return f"{goal:.2f}" + ("" if round(value, 2) <= goal else " missed")


def size(kib):
    return f"{kib} KiB" if kib < 1024 else f"{kib >> 10} MiB"


# What an operation costs

OPERATION_COLUMNS = ["operation", "linear", "this one", "x", "kernel's own", "x", "thin", "x",
                     "snapshot", "x"]


def cost_row(row):
    found, linear = row["ns"], row["ns"]["linear"]
    cells = [row["name"], number(linear)]
    for name in ("ours", "peer", "thin", "snapshot"):
        cells += [number(found.get(name)), ratio(found.get(name), linear)]
    return cells


def fio_row(row):
    return cost_row(row) + [verdict(row["ns"]["ours"] / row["ns"]["linear"], row["goal"])]


def fio(rows):
    return title("What an operation costs, with fio", "-") + (
        "ns (instructions) an operation of ``fio --ioengine=libaio --direct=1``, and in the columns\n"
        "with an x that divided by what linear takes for the same I/O; for write + fsync linear\n"
        "does the write alone. Regions of 4 KiB unless the row says otherwise. Thin volumes have\n"
        "no blocks of less than 64 KiB.\n\n") + table(
            OPERATION_COLUMNS + ["goal"], map(fio_row, rows))


def cost(rows):
    return title("What an operation costs", "-") + (
        "The same of a loop of system calls that does nothing else: what the differences are,\n"
        "as exactly as can be, and ratios as bad as they can be.\n\n") + table(
            OPERATION_COLUMNS, map(cost_row, rows))


# The background copy


def background_row(row):
    found, linear = row["ns"], row["ns"]["linear"]
    cells = [size(row["region_kib"]), f"{row['mib']} MiB", significant(linear / 1e6)]
    for name in CLONES:
        cells += [significant(found[name] / 1e6) if name in found else "-",
                  ratio(found.get(name), linear)]
    return cells + [verdict(found["ours"] / linear, COPY_GOAL)]


def background(rows):
    return title("The background copy", "-") + (
        "Without any arguments, on an idle device: ms (millions of instructions) from the\n"
        "message to the last write to the destination. Linear: reads and writes of 1 MiB by a\n"
        "program, one after the other, what ``dd bs=1M`` does with direct I/O.\n\n") + table(
            ["regions", "size", "linear ms", "this one ms", "x", "kernel's own ms", "x", "goal"],
            map(background_row, rows))


# Over region size and I/O size


def sweep_rows(rows, sizes):
    by_key = {(row["op"], row["io_kib"], row["region_kib"]): row["ns"] for row in rows}
    for op in ("read", "write"):
        for io_kib in sizes:
            points = [by_key[op, io_kib, region_kib] for region_kib in sizes]
            for name in CLONES:
                if name in points[0]:
                    yield [op, size(io_kib), NAMES[name]] + [
                        ratio(ns[name], ns["linear"]) for ns in points]


def sweep(rows):
    sizes = sorted({row["region_kib"] for row in rows})
    columns = ["op", "I/O", "target", *map(size, sizes)]

    def of(state):
        return table(columns, sweep_rows([row for row in rows if row["state"] == state], sizes))

    return title("Over region size and I/O size", "-") + (
        "Random I/O to what is not hydrated, divided by the same through linear. Each column is a\n"
        "region size. A write smaller than a region has the rest of it copied.\n\n"
    ) + of("unhydrated") + "The same to what is hydrated.\n\n" + of("hydrated")


# Commits


def commit_cells(found):
    if not found:
        return ["-", "-"]
    return [found["blocks"], significant(found["ns"] / 1000)]


def commit_row(row):
    cells = [row["dirty"], "scattered" if row["scattered"] else "clustered"]
    return cells + [cell for name in CLONES for cell in commit_cells(row["results"].get(name))]


def commit(rows):
    return title("What a commit costs", "-") + (
        f"An fsync after this many regions, of {rows[0]['regions']}, have been written: next to\n"
        "each other, or as far apart as possible. Metadata blocks of 4 KiB written, us.\n\n"
    ) + table(["regions", "where", "this one blocks", "us", "kernel's own blocks", "us"],
              map(commit_row, rows))


# Scale


def geometry(row):
    return [f"2^{row['exponent']}", size(row["region_kib"]),
            f"{(row['region_kib'] << row['exponent']) >> 30} TiB"
            if row["region_kib"] << row["exponent"] >= 1 << 30 else
            f"{(row['region_kib'] << row['exponent']) >> 20} GiB"]


def of_clones(row, key, unit):
    """Two cells."""
    return [significant(row["results"][name][key] / unit) if name in row["results"] else "-"
            for name in CLONES]


def times_as_fast(row):
    """Activation."""
    found = row["results"]
    if "peer" not in found:
        return ["-", "-"]
    times = found["peer"]["activate_ns"] / found["ours"]["activate_ns"]
    return [significant(times), f"{SCALE_GOAL}" + ("" if times >= SCALE_GOAL else " missed")]


def scale_time_row(row):
    return geometry(row) + of_clones(row, "format_ns", 1e6) + \
        of_clones(row, "activate_ns", 1e6) + times_as_fast(row) + \
        of_clones(row, "status_ns", 1000)


def bits(row, name):
    return row["results"][name]["memory_kib"] * 8192 / (1 << row["exponent"])


def scale_memory_row(row):
    return geometry(row) + of_clones(row, "memory_kib", 1024) + \
        [significant(bits(row, name)) if name in row["results"] else "-" for name in CLONES] + \
        [verdict(bits(row, "ours"), BITS_GOAL),
         significant(row["results"]["ours"]["metadata_mib"])]


SCALE_IO = ("hydrated read", "hydrated write", "unhydrated read", "hydrating write")


def scale_io_row(row):
    cells = geometry(row)[:2]
    for what in SCALE_IO:
        linear = row["results"]["linear"]["io"][what]
        cells += [ratio(row["results"][name]["io"][what], linear)
                  if name in row["results"] else "-" for name in CLONES]
    for nr in ("1", "1000"):
        found = [row["results"].get(name, {}).get("commit", {}).get(nr) for name in CLONES]
        cells += [significant(one["ns"] / 1000) if one else "-" for one in found]
    return cells


def pairs_of(*columns):
    return [cell for column in columns for cell in (column, "(own)")]


def scale(rows):
    return title("Over the size of the device", "-") + (
        "Nothing hydrated, source and destination that hold nothing. In each pair of columns this\n"
        "one is the left, the kernel's own the right. From the loading of the table to the end of\n"
        "its resume, ms, the first time (format) and the second (activate), and how many times as\n"
        "fast this one is; a status, us.\n\n") + table(
            ["regions", "of", "device", *pairs_of("format ms", "activate ms"), "times", "goal",
             *pairs_of("status us")], map(scale_time_row, rows)) + (
        "Memory that is allocated for it, MiB, and in bits a region; the metadata device of this\n"
        "one, MiB.\n\n") + table(
            ["regions", "of", "device", *pairs_of("MiB", "bits a region"), "goal", "metadata"],
            map(scale_memory_row, rows)) + (
        "Random I/O of 4k, divided by the same through linear, to regions that are hydrated, or\n"
        "not, of a device that is not; and the fsync that commits one region or 1000 neighbours,\n"
        "us.\n\n") + table(
            ["regions", "of", *pairs_of(*SCALE_IO, "commit of 1", "of 1000")],
            map(scale_io_row, rows))


# Bios


def counts_rows(row):
    for name, label in NAMES.items():
        found = row["results"].get(name)
        if found:
            yield [row["name"], label] + [
                significant(found[key] / found["operations"]) if found[key] else "0"
                for key in ("source", "dest", "dest_flushes", "meta_writes", "meta_flushes",
                            "commits")]


def counts(rows):
    return title("Bios", "-") + (
        "What reaches the devices for an operation: bios with data at source and destination,\n"
        "flushes of the destination, metadata blocks written, flushes of the metadata device (a\n"
        "FUA is one), commits (writes of its superblock). 64 operations of 4k, or 16 of 1 MiB, and\n"
        "after writes one fsync: 0.02 of something is one in all of 64. A snapshot has its\n"
        "metadata in the destination.\n\n") + table(
            ["operation", "target", "source", "destination", "flushes", "metadata blocks",
             "metadata flushes", "commits"],
            [cells for row in rows for cells in counts_rows(row)])


# fsync


def threads_row(row):
    shared = row["commits"] / row["fsyncs"]
    return [f"{row['slow_ms']} ms", NAMES[row["module"]], row["fsyncs"], row["commits"],
            significant(shared), verdict(shared, SHARED_COMMITS_GOAL)
            if row["module"] == "ours" else "-"]


def beside_rows(rows):
    for name in CLONES:
        pair = [row for row in rows if row["module"] == name]
        if not pair:
            continue
        without, with_them = sorted(pair, key=lambda row: row["fsyncs"])
        more = with_them["commits"] - without["commits"]
        yield [NAMES[name], with_them["fsyncs"], with_them["hydrated"], with_them["blocks"],
               with_them["commits"], without["commits"],
               verdict(max(more, 0), 0) if name == "ours" else "-"]


def fsync(found):
    return title("fsync", "-") + (
        "16 threads that write to new regions with an fsync after each write. If the metadata\n"
        "device takes no time, then a commit is over before the next thread gets to its fsync.\n\n"
    ) + table(
            ["write to metadata takes", "target", "fsyncs", "commits", "commits / fsyncs", "goal"],
            map(threads_row, found["threads"])) + (
        "Writes with fsync to regions that are committed, within a second, while others are\n"
        "being hydrated from a source with 20 ms of delay. That hydration is committed once a\n"
        "second is no matter of the fsyncs: the last but one column tells of a second without.\n\n"
    ) + table(
            ["target", "fsyncs", "regions hydrated", "metadata blocks", "commits",
             "without fsyncs", "more, at most"], beside_rows(found["beside"]))


# Plain time


def plain_row(cpus, row):
    cells = [cpus, row["jobs"], row["load"], row["name"],
             significant(min(found["linear"] for found in row["results"].values()) / 1000)]
    for name in CLONES:
        found = row["results"].get(name)
        cells += [f"{found['ratio']:.2f}", f"{found['from']:.2f}-{found['to']:.2f}"] \
            if found else ["-", "-"]
    return cells


def by_cpus(machines):
    """{(row's name, load, jobs): {CPUs: row}}"""
    found = {}
    for machine in machines:
        for row in machine["jobs"]:
            key = row["name"], row["load"], row["jobs"]
            found.setdefault(key, {})[machine["conditions"]["cpus"]] = row
    return found


def speed(row, name):
    """Operations a second. A clone's is that of linear, by the ratio, so that both have
    had the same share of the host."""
    best = min(found["linear"] for found in row["results"].values())
    return 1e9 / best / (row["results"][name]["ratio"] if name != "linear" else 1)


def scaling_rows(machines):
    more = [machine["conditions"]["cpus"] for machine in machines[1:]]
    for (name, load, jobs), rows in by_cpus(machines).items():
        if len(rows) == len(machines) and jobs > 1 and more:
            yield [name, load, jobs] + [
                f"{speed(rows[cpus], target) / speed(rows[1], target):.2f}"
                for cpus in more for target in ("linear", *CLONES)
                if target == "linear" or target in rows[1]["results"]]


def scaling(machines):
    more = [machine["conditions"]["cpus"] for machine in machines[1:]]
    names = ["linear", *(NAMES[name] for name in CLONES
                         if name in machines[0]["jobs"][0]["results"])]
    rows = list(scaling_rows(machines))
    return table(["operation", "load", "jobs", *(f"{cpus} CPUs, {name}" if name == "linear"
                                                 else name
                                                 for cpus in more for name in names)],
                 rows) if rows else ""


def plain(machines):
    return title("With several CPUs", "-") + (
        "How many times as many operations a second as on one CPU, through each target.\n\n"
    ) + scaling(machines) + title("Beside linear", "-") + (
        "us an operation takes through linear, all jobs together, and how many times as long it\n"
        "takes through a clone: the median of the pairs, and their quartiles.\n\n") + table(
            ["CPUs", "jobs", "load", "operation", "linear us", "this one x", "quartiles",
             "kernel's own x", "quartiles"],
            [plain_row(machine["conditions"]["cpus"], row)
             for machine in machines for row in machine["jobs"]])


# All of it


def duration(all_conditions):
    minutes, cpu = (sum(found.get(key, 0) for found in all_conditions)
                    for key in ("minutes", "cpu_minutes"))
    return f"{minutes:.0f} minutes, {cpu:.0f} of CPU time"


def conditions(found):
    words = [provenance(found), f"kernel {found['kernel']}",
             f"a virtual machine with {found['cpus']} CPU, instructions counted"]
    if "minutes" in found:
        words.append(duration([found]))
    if not found["peer"]:
        words.append("the kernel's own target could not be built")
    return "; ".join(words) + ".\n\n"


def figures(names, folder):
    """None of them without a folder, a path from the document."""
    if folder is None:
        return ""
    return "".join(f".. image:: {os.path.join(folder, name)}\n\n" for name in names)


def document(results, plots, folder=None):
    """plots are their names, {table: names}, and the folder is where they are."""
    parts = [conditions(results["conditions"])]
    for make in (fio, cost, background, counts, commit, fsync, sweep, scale):
        name = make.__name__
        if name in results:
            parts.append(make(results[name]) + figures(plots.get(name, ()), folder))
    return "".join(parts)


def plain_document(machines, plots, folder=None):
    found = [machine["conditions"] for machine in machines]
    load = max(one["load_average"] for one in found)
    return (f"{provenance(found[0])}; kernel {found[0]['kernel']};\n"
            f"a host with {found[0]['host_cpus']} CPUs and, before "
            f"each machine, a load average of up to {load:.1f};\n{duration(found)}.\n\n"
            ) + plain(machines) + figures(plots["plain"], folder)


# Where the instructions go

PARTS = {"kernel": "the kernel itself", "dm_mod": "device-mapper",
         "brd": "RAM disks", "dm_persistent_data": "persistent-data", "dm_bufio": "dm-bufio",
         "dm_clone": "this target"}
TOP_FUNCTIONS = 12


def profile_parts(rows):
    """Of each part of the system how many instructions; those that make up a thousandth."""
    totals = [collections.Counter() for _ in rows]
    for row, total in zip(rows, totals):
        for module, _, instructions, _ in row["functions"]:
            total[module] += instructions
    everything = sum(totals, collections.Counter())
    for module, _ in everything.most_common():
        if any(total[module] > 0.001 * total.total() for total in totals):
            yield [PARTS.get(module, module), *(number(total[module]) for total in totals)]
    yield ["all", *(number(total.total()) for total in totals)]


def more_than(row, reference):
    """Of the functions with most instructions more than the reference."""
    base = {(module, name): counts for module, name, *counts in reference["functions"]}
    found = []
    for module, name, *counts in row["functions"]:
        counts = [value - before for value, before in
                  zip(counts, base.get((module, name), (0, 0)))]
        found.append([name, PARTS.get(module, module), *counts])
    for name, module, instructions, calls in sorted(found, key=lambda one: -one[2])[
            :TOP_FUNCTIONS]:
        yield [name, module, number(instructions), number(calls, 2)]


def profile(results):
    linear, *rows = results["profile"]
    text = title("Where the instructions go", "-") + (
        f"{provenance(results['conditions'])}. The kernel's, of an operation, by module.\n"
        "Linear: a write to what it maps.\n\n") + table(
            ["part", f"linear, {linear['name']}", *(row["name"] for row in rows)],
            profile_parts([linear, *rows]))
    for row in rows:
        text += f"{row['name']}: what it takes more than linear, and calls more.\n\n" + table(
            ["function", "of", "instructions", "calls"], more_than(row, linear))
    return text
