#!/usr/bin/env python3
"""A chart of a record of `benchmarks/run.py`, as SVG: one group of bars a row, each group to its own scale.

    python benchmarks/chart.py benchmarks/DATE-HOST [--out CHART.svg]

Needs nothing but Python. The bars of hadal stand out; a line beside each says its tokens a second.
"""

import argparse
import json
from html import escape
from pathlib import Path

WIDTH, LEFT, RIGHT = 760, 210, 90
BAR, GAP, GROUP_GAP, TITLE = 18, 4, 18, 22
OURS, OTHERS = ["#0b7285", "#3bc9db", "#99e9f2"], ["#868e96", "#adb5bd", "#ced4da", "#dee2e6"]
STYLE = "text{font:13px sans-serif;fill:#495057}.title{font-weight:600}@media(prefers-color-scheme:dark){text{fill:#ced4da}}"


def is_ours(label):
    return label.split()[0] == "hadal"


def colours(labels):
    """Of each label: shades of one colour for ours, greys for the others, in their order."""
    found, counts = {}, {True: 0, False: 0}
    for label in labels:
        shades = OURS if is_ours(label) else OTHERS
        found[label] = shades[counts[is_ours(label)] % len(shades)]
        counts[is_ours(label)] += 1
    return found


def draw(record):
    # Where nobody is compared with, or less is better, bars of one scale would mislead.
    rows = [row for row in record["rows"] if len(row["values"]) > 1 and row["unit"] == "tokens/s"]
    if not rows:
        raise SystemExit("the record has no row that two contenders have")
    colour = colours(dict.fromkeys(label for row in rows for label in row["values"]))
    parts, y = [], 8
    for row in rows:
        parts.append(f'<text class="title" x="0" y="{y + 14}">{escape(row["row"])}, tokens/s</text>')
        y += TITLE
        most = max(value["median"] for value in row["values"].values())
        for label, value in row["values"].items():
            width = max(1, (WIDTH - LEFT - RIGHT) * value["median"] / most)
            middle = y + BAR - 5
            parts.append(f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(label)}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour[label]}"/>')
            parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{middle}">{value["median"]:.4g}</text>')
            y += BAR + GAP
        y += GROUP_GAP
    foot = f"{record['cpu']}, {record['threads']} threads, {record['date']}; medians of {record['rounds']} rounds"
    parts.append(f'<text x="0" y="{y + 6}">{escape(foot)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 16}" viewBox="0 0 {WIDTH} {y + 16}" role="img">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="the folder of a record")
    parser.add_argument("--out", type=Path, help="the file to write; chart.svg in the record without it")
    options = parser.parse_args()
    record = json.loads((options.record / "summary.json").read_text())
    out = options.out or options.record / "chart.svg"
    out.write_text(draw(record))
    print(out)


if __name__ == "__main__":
    main()
