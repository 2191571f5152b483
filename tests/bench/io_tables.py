# SPDX-License-Identifier: GPL-2.0-only
"""The tables of tests/bench/io, from its results."""

from tables import table, title

NAMES = {"linear": "linear", "ours": "this one", "peer": "kernel's own", "thin": "thin",
         "snapshot": "snapshot"}
CLONES = ("ours", "peer")
COPY_GOAL = 1.10
SHARED_COMMITS_GOAL = 0.50


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


def cost_row(row):
    found, linear = row["ns"], row["ns"]["linear"]
    cells = [row["name"], number(linear)]
    for name in ("ours", "peer", "thin", "snapshot"):
        cells += [number(found.get(name)), ratio(found.get(name), linear)]
    return cells + [verdict(found["ours"] / linear, row["goal"])]


def cost(rows):
    return title("What an operation costs", "-") + (
        "Instructions an operation, and in the columns with an x that divided by what linear\n"
        "takes for the same I/O; for write + fsync linear does the write alone. Regions of 4 KiB\n"
        "unless the row says otherwise. Thin volumes have no blocks of less than 64 KiB.\n\n") + table(
            ["operation", "linear", "this one", "x", "kernel's own", "x", "thin", "x",
             "snapshot", "x", "goal"], map(cost_row, rows))


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
    return title("Over region size and I/O size", "-") + (
        "Random I/O to what is not hydrated, divided by the same through linear. Each column is a\n"
        "region size. A write that is smaller than a region has that region copied first.\n\n"
    ) + table(["op", "I/O", "target", *map(size, sizes)], sweep_rows(rows, sizes))


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
        f"An fsync after so many regions, of {rows[0]['regions']}, have been written: one behind\n"
        "the other, or as far from each other as possible. Metadata blocks of 4 KiB written, us.\n\n"
    ) + table(["regions", "where", "this one blocks", "us", "kernel's own blocks", "us"],
              map(commit_row, rows))


# Scale


def scale_row(row):
    cells = [f"2^{row['exponent']}", f"{(1 << row['exponent']) / (1 << 18):.0f} GiB"]
    for key, unit in (("format_ns", 1e6), ("activate_ns", 1e6), ("memory_kib", 1024),
                      ("status_ns", 1000)):
        for name in CLONES:
            found = row["results"].get(name)
            cells.append(significant(found[key] / unit) if found else "-")
    return cells


def scale(rows):
    return title("Over the size of the device", "-") + (
        "Regions of 4 KiB, nothing hydrated, source and destination that hold nothing. From the\n"
        "loading of the table to the end of its resume, the first time (format) and the second\n"
        "(activate), ms; memory that is allocated for it, MiB; a status, us. In each pair of\n"
        "columns this one is the left, the kernel's own the right.\n\n") + table(
            ["regions", "device", "format ms", "(own)", "activate ms", "(own)", "MiB", "(own)",
             "status us", "(own)"], map(scale_row, rows))


# Bios


def counts_rows(row):
    for name in ("linear", *CLONES):
        found = row["results"].get(name)
        if not found:
            continue
        operations = found["operations"]
        yield [row["name"], NAMES[name], operations, significant(found["source"] / operations),
               significant(found["dest"] / operations), found["dest_flushes"], found["commits"],
               found["meta_writes"], found["meta_flushes"]]


def counts(rows):
    return title("Bios", "-") + (
        "What reaches the devices for so many operations and, after writes, one fsync. Bios with\n"
        "data are given an operation, the others in all. A commit is a write of the superblock; a\n"
        "flush of the metadata device may be a FUA.\n\n") + table(
            ["operation", "target", "operations", "source", "destination", "flushes", "commits",
             "metadata blocks", "metadata flushes"],
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
    cells = [cpus, row["jobs"], row["name"]]
    linear = row["ns"]["linear"]
    cells.append(significant(linear / 1000))
    return cells + [ratio(row["ns"].get(name), linear) for name in CLONES] + [
        f"{row['spread']:.2f}"]


def plain(machines):
    rows = [plain_row(machine["conditions"]["cpus"], row)
            for machine in machines for row in machine["jobs"]]
    return table(["CPUs", "jobs", "operation", "linear us", "this one x", "kernel's own x",
                  "spread"], rows)


# All of it


def conditions(found):
    words = [f"Kernel {found['kernel']}, a virtual machine with {found['cpus']} CPU, "
             "instructions counted"]
    if "minutes" in found:
        words.append(f"{found['minutes']:.0f} minutes")
    if not found["peer"]:
        words.append("the kernel's own target could not be built")
    return "; ".join(words) + ".\n\n"


def document(results):
    parts = [conditions(results["conditions"])]
    for make in (cost, background, counts, commit, fsync, sweep, scale):
        if make.__name__ in results:
            parts.append(make(results[make.__name__]))
    return "".join(parts)


def plain_document(machines):
    found = machines[0]["conditions"]
    return (f"Kernel {found['kernel']}; load average of the host at the beginning "
            f"{found['load_average']:.1f}.\n\n") + plain(machines)
