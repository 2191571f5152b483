# SPDX-License-Identifier: GPL-2.0-only
"""The tables of tests/bench/hydration, from its results."""

import math
import statistics

from tables import provenance, table, title

NAMES = {"ours": "this one", "peer": "kernel's own"}
NOT_BUILT = "not built"
NOT_SUPPORTED = "not supported"


def median_rate(measurements):
    return statistics.median(m["rate"] for m in measurements)


def number(value):
    """Three digits are more than can be trusted."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(value, reference):
    return f"{value / reference:.2f}" if value is not None and reference else "-"


def source_name(delay_ms):
    return f"{delay_ms} ms of delay" if delay_ms else "RAM disk"


# Out of the box


def untuned_cell(found):
    if not found:
        return NOT_BUILT
    computed = any(m["done"] < 1 for m in found["untuned"])
    return number(median_rate(found["untuned"])) + (" [1]_" if computed else "")


def tuned_cell(found):
    if not found:
        return NOT_BUILT
    best = found["best"]
    return (f"{number(median_rate(found['tuned']))} "
            f"({best['threshold_mib']} MiB, {best['batch_kib']} KiB)")


def box_row(row):
    ours, peer = row["results"]["ours"], row["results"].get("peer")
    best = max(median_rate(found["tuned"]) for found in (ours, peer) if found)
    return [row["name"], f"{row['region_kib']} KiB", f"{row['mib']} MiB",
            untuned_cell(ours), tuned_cell(ours), untuned_cell(peer), tuned_cell(peer),
            ratio(median_rate(ours["untuned"]), best)]


def box(rows):
    return title("Out of the box", "-") + (
        "MiB/s on an idle device, without any arguments (untuned) and with the best of 12\n"
        "combinations of ``hydration_threshold`` and ``hydration_batch_size`` (tuned; in\n"
        "parentheses, in bytes). Medians of three. The last column is what this target does\n"
        "untuned, as a part of the best that tuning made of either. *Every other region*: the\n"
        "others were written before, so that what is left to copy is in pieces of a region.\n\n") + table(
            ["source", "regions", "size", "this one untuned", "this one tuned",
             "kernel's own untuned", "kernel's own tuned", "untuned / best"],
            map(box_row, rows)) + (
        ".. [1] Stopped after 10 s; the rate is that of what was copied by then.\n\n")


# Beside user I/O


def fair_rows(row):
    for name, both in row["results"].items():
        without, meanwhile = both["without"], both["with"]
        cells = [source_name(row["delay_ms"]), row["load"], NAMES.get(name, name)]
        for op in ("reads_us", "writes_us"):
            cells += [number(without[op]["median"] / 1000),
                      ratio(meanwhile[op]["median"], without[op]["median"]),
                      ratio(meanwhile[op]["p99"], without[op]["p99"])]
        yield cells + [ratio(meanwhile["operations"], without["operations"]),
                       number(meanwhile["rate"])]


def fair(rows):
    return title("Beside user I/O", "-") + (
        "Random reads of 4 KiB from what is not hydrated, and as many random writes to what\n"
        "is, by 1 thread that pauses for 10 ms after each (light), 4 threads that pause for\n"
        "4 ms (medium), 16 threads that never pause (saturating). Regions of 4 KiB. The columns\n"
        "with an x are ratios: with hydration, divided by without it, in the same run. "
        f"{rows[0]['rounds']}\n"
        "rounds of 3 s each, in turns: the medians of their medians and of their p99.\n\n"
    ) + table(
        ["source", "load", "target", "read ms", "x median", "x p99", "write ms", "x median",
         "x p99", "x IOPS", "hydration MiB/s"],
        [cells for row in rows for cells in fair_rows(row)])


# Beside user I/O, at queues

def spread(values):
    """Their median, the least and the most."""
    if not values:
        return "-"
    return f"{number(statistics.median(values))} ({number(min(values))}-{number(max(values))})"


def queue_row(place, load, name, rounds):
    def ratios(key):
        return spread([one[name][key] / one["none"][key] for one in rounds
                       if one[name][key] and one["none"][key]])

    return [place, load, NAMES.get(name, name),
            *map(ratios, ("reads_p99", "writes_p99", "operations")),
            spread([one[name]["rate"] for one in rounds])]


def queue_rows(row):
    rounds = row["rounds"]
    for load, ofload in rounds.items():
        for name in row["modules"]:
            if load == "idle":
                yield [row["place"], load, NAMES.get(name, name), "-", "-", "-",
                       spread([one[name] for one in ofload])]
            else:
                yield queue_row(row["place"], load, name, ofload)


def geometric_mean(values):
    """With its standard error, in percent."""
    logs = [math.log(value) for value in values]
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(statistics.mean(logs)):.2f} (+-{100 * error:.0f} %)"


MIN_RATE = 0.1      # MiB/s, for what did not get anywhere


def overall_rows(rows):
    first = rows[0]["modules"][0]
    for load in rows[0]["rounds"]:
        rounds = [one for row in rows for one in row["rounds"][load]]
        for name in rows[0]["modules"]:
            def rate(one, of):
                found = one[of] if load == "idle" else one[of]["rate"]
                return max(found, MIN_RATE)

            def ratios(key):
                if load == "idle":
                    return "-"
                return geometric_mean([one[name][key] / one["none"][key] for one in rounds
                                       if one[name][key] and one["none"][key]])

            yield [load, NAMES.get(name, name),
                   *map(ratios, ("reads_p99", "writes_p99", "operations")),
                   geometric_mean([rate(one, name) / rate(one, first) for one in rounds])
                   if name != first else "1"]


def queues(rows):
    first = NAMES.get(rows[0]["modules"][0], rows[0]["modules"][0])
    return title("All places together", "-") + (
        "The geometric means of all rounds at all places of the next table, and their standard\n"
        f"errors. The last column is hydration, divided by that of {first}.\n\n") + table(
            ["load", "target", "reads x p99", "writes x p99", "x IOPS", "x hydration"],
            overall_rows(rows)) + title("At queues", "-") + (
        "Random reads of 4 KiB from what is not hydrated, and as many random writes to what\n"
        "is, by 4 threads that pause for 4 ms after each (medium), 16 threads that never pause\n"
        "(saturating), 4 threads each of whose writes is followed by fdatasync() and timed with\n"
        "that (fsync), and by none (idle). Regions of 64 KiB. The columns with an x are ratios:\n"
        "with hydration, divided by without it, in the same round; the median of "
        f"{len(rows[0]['rounds']['idle'])} rounds,\n"
        "the least and the most.\n\n") + table(
            ["place", "load", "target", "reads x p99", "writes x p99", "x IOPS",
             "hydration MiB/s"],
            [cells for row in rows for cells in queue_rows(row)])


# Hydrate on read


def read_row(table_row, row):
    features = " ".join(row["features"]) or "none"
    cells = [source_name(table_row["delay_ms"]), f"{table_row['mib']} MiB",
             NAMES[row["module"]], features]
    if not row["lives"]:
        return cells + [NOT_SUPPORTED, "-", "-", "-"]

    def median(key):
        return statistics.median(life[key] for life in row["lives"])

    plain = statistics.median(table_row["plain_seconds"])
    return cells + [number(median("life_mib")), number(median("hydrated_by_then")),
                    f"{median('seconds'):.2f}", ratio(median("seconds"), plain)]


def read(rows):
    return title("Hydration of what is read", "-") + (
        "A clone is read once from beginning to end, 1 MiB at a time, and hydrated\n"
        "after that. How much was read from the source in all; how much was hydrated when the\n"
        "reader was done; how long the reader took, and that divided by the time the source\n"
        "itself takes.\n\n") + table(
            ["source", "size", "target", "features", "MiB read of source", "MiB hydrated by reads",
             "reader s", "x source"],
            [read_row(row, one) for row in rows for one in row["rows"]])


# Readers of a slow source


def ahead(rows):
    names = list(rows[0]["rates"])
    return title("Readers of a slow source", "-") + (
        "MiB/s of one reader of what is not hydrated, with ``hydrate_on_read``, 4 KiB regions\n"
        "and a source with 20 ms of delay. In sequence: 32 MiB, 128 KiB at a time. Medians of\n"
        "three.\n\n") + table(
            ["reader", *(NAMES.get(name, name) for name in names)],
            [[row["reader"], *(number(statistics.median(row["rates"][name])) for name in names)]
             for row in rows])


# The rate limit


def rate_row(row):
    cells = [NAMES[row["module"]], row["asked_kib"]]
    if not row["supported"]:
        return cells + [NOT_SUPPORTED, "-", "-", "-"]
    share = row["asked_kib"] / 10
    return cells + [number(row["measured_kib"]), ratio(row["measured_kib"], row["asked_kib"]),
                    number(row["burst_kib"]), ratio(row["burst_kib"], share)]


def rate(rows):
    return title("The rate limit", "-") + (
        "``hydration_rate``, and what is read from a RAM disk in 10 s. The burst is the most\n"
        "that is read within any 100 ms; the last column divides it by what the rate gives\n"
        "100 ms. Regions of 4 KiB.\n\n") + table(
            ["target", "asked KiB/s", "measured KiB/s", "ratio", "burst KiB", "x share"],
            map(rate_row, rows))


# All of it


def conditions(found):
    words = [provenance(found), f"kernel {found['kernel']}",
             f"a virtual machine with {found['cpus']} CPUs ({found['cpu_model']})"]
    if "minutes" in found:
        words.append(f"{found['minutes']:.0f} minutes")
    words.append(f"load average of the host at the beginning {found['load_average']:.1f}")
    if not found["peer"]:
        words.append("the kernel's own target could not be built")
    return "; ".join(words) + ".\n\n"


def document(results):
    parts = [conditions(results["conditions"])]
    for name, make in (("box", box), ("fair", fair), ("queues", queues), ("read", read),
                       ("ahead", ahead), ("rate", rate)):
        if name in results:
            parts.append(make(results[name]))
    return "".join(parts)
