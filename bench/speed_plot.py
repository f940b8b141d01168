"""The speed records as a picture: where an expression's time goes, and what its counted FLOPs allow.

    python bench/speed_plot.py [results/speed/*.json] [--out docs/speed.png]

Each record of ``groma-eval speed --json`` is one bar: milliseconds an expression by stage, a line in each stage where
its FLOPs would end at the measured rate of a matrix product, and the reference way's ratio beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Of the stages in order; the last is what belongs to none.
COLOURS = ("#bbbbbb", "#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#dddddd")


def draw(records: dict[str, dict[str, Any]], out: Path) -> None:
    """One bar a record, by name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.7 * len(records)), layout="constrained")
    for row, record in enumerate(records.values()):
        left, scale = 0.0, 1000 / record["workload"]["expressions"]
        for colour, (stage, entry) in zip(COLOURS, record["stages"].items(), strict=True):
            width = scale * entry["seconds"]
            label = stage if row == 0 else None
            axes.barh(row, width, left=left, color=colour, edgecolor="white", label=label, height=0.6)
            allowed = scale * entry["seconds_at_matmul_rate"]
            if 0 < allowed <= width:
                axes.plot([left + allowed] * 2, [row - 0.3, row + 0.3], color="black", linewidth=1)
            left += width
        if "ratio" in record:
            said = f" {record['ratio']:.1f} times the reference way, {record['share_of_ideal']:.0%} of ideal"
            axes.text(left, row, said, va="center", fontsize=8)
    longest = max(1000 * r["seconds"] / r["workload"]["expressions"] for r in records.values())
    axes.set_xlim(0, 1.75 * longest)
    axes.set_yticks(range(len(records)), list(records))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds an expression; black lines: what the stage's FLOPs allow")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main() -> None:
    """Read the records and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", type=Path, help="default: all of results/speed")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "speed.png")
    args = parser.parse_args()
    files = args.records or sorted((ROOT / "results" / "speed").glob("*.json"))
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    records = {name: record for name, record in found.items() if "stages" in record}
    if not records:
        raise SystemExit("no records: write some with groma-eval speed --json results/speed")
    draw(records, args.out)
    print(f"{len(records)} records: {args.out}")


if __name__ == "__main__":
    main()
