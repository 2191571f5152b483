# SPDX-License-Identifier: GPL-2.0-only
"""Tables that read well as they are and are reStructuredText too."""

BEGIN = ".. The {} tables begin here."
END = ".. The {} tables end here."


def title(text, mark="="):
    return f"{text}\n{mark * len(text)}\n\n"


def table(columns, rows):
    """A simple table. Cells that are empty must not be the first of their row."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
             for row in cells]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule]) + "\n\n"


def provenance(conditions):
    """Which commit was measured, when, and with what."""
    commit, date, fio, qemu = (conditions.get(key, "unknown")
                               for key in ("commit", "date", "fio", "qemu"))
    return (f"Commit {commit}, measured on {date};\n"
            f"fio {fio.replace('fio-', '')}, QEMU {qemu}")


def put_into(path, text, which):
    """Replaces what a document has between its markers."""
    begin, end = BEGIN.format(which), END.format(which)
    with open(path, encoding="utf-8") as file:
        document = file.read()
    if begin not in document or end not in document:
        raise SystemExit(f"{path}: no lines '{begin}' and '{end}'")
    before, rest = document.split(begin)
    after = rest.split(end)[1]
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{begin}\n\n{text}{end}{after}")
