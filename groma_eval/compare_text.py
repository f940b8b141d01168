"""A comparison in words and tables, and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from groma_eval.compare import Comparison, Row, System
from groma_eval.compare_changes import Changes

_LEGEND = {
    "holm": "p is corrected after Holm for the {count} comparisons of its table",
    "bh": "p is corrected after Benjamini and Hochberg (false discovery rate) for the {count} comparisons of its table",
    "none": "p is not corrected for the {count} comparisons of its table",
}


def sentence(row: Row) -> str:
    """What a researcher would quote of one comparison, with the p-value as corrected."""
    result = row.result
    where = f"{row.benchmark} ({row.metric})"
    if result.p is None or result.low is None or result.high is None or row.corrected is None:
        return f"{where}: one image says nothing about the difference between {row.b} and {row.a}."
    size = abs(result.difference)
    low, high = result.low, result.high
    if row.significant:
        if result.difference < 0:
            low, high = -high, -low
        more = result.difference > 0
        verb = ("higher" if more else "lower") if row.higher is None else "better" if more == row.higher else "worse"
        bounds = f"95 % CI {low:.1f} to {high:.1f}"
        return (
            f"{row.b} is {verb} than {row.a} on {where} by {size:.1f} {_unit(row)} "
            f"({bounds}, {p_text(row.corrected)}, {result.images} images, clustered by image)."
        )
    found = "no image shows one"
    if result.detectable is not None:
        found = f"one of {result.detectable:.1f} would be found four times in five"
    return (
        f"No difference between {row.b} and {row.a} on {where} is shown: {result.difference:+.1f} {_unit(row)} "
        f"(95 % CI {low:.1f} to {high:.1f}, {p_text(row.corrected)}, {result.images} images, clustered by image); "
        f"{found}."
    )


def _unit(row: Row) -> str:
    return "words" if row.unit == "words" else "points"


def p_text(p: float) -> str:
    """``p = 0.002``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def stars(row: Row) -> str:
    """Marks of significance at 5, 1 and 0.1 %, of the corrected p-value."""
    p = row.corrected
    return "" if p is None or p >= 0.05 else "***" if p < 0.001 else "**" if p < 0.01 else "*"


def text_report(found: Comparison, systems: Sequence[System]) -> str:
    """Everything, as printed."""
    blocks = ["\n".join(sentence(row) for row in found.rows)]
    blocks.append(_table(found.rows, "Differences", systems))
    if found.split:
        blocks.append(_table(found.split, "Misses: no region proposed, or another selected", systems))
    for name in dict.fromkeys(row.part[0] for row in found.parts if row.part):
        rows = [row for row in found.parts if row.part and row.part[0] == name]
        blocks.append(_table(rows, f"By {name} ({found.cuts[name]})", systems))
    blocks.append(_changes(found))
    legend = [_LEGEND[found.correction].format(count=len(found.rows)) + "; * p < 0.05, ** p < 0.01, *** p < 0.001."]
    if found.parts:
        legend.append(
            f"The breakdowns are one family of {len(found.parts)} comparisons: explore with them, do not claim."
        )
    legend.append(
        "Intervals: 95 % each, not corrected, by paired bootstrap of images (jackknife for means over categories); p: "
        "by swapping the two answers to an image (AP: t test). detectable: the true difference that one such test "
        "finds four times in five."
    )
    if any(len(system.runs) > 1 for system in systems):
        legend.append(
            "± is the standard deviation over a system's runs; intervals and p are for other images, these very runs."
        )
    blocks.append("\n".join([*legend, *(f"Note: {note}." for note in found.notes)]))
    return "\n\n".join(filter(None, blocks)) + "\n"


def _table(rows: Sequence[Row], title: str, systems: Sequence[System]) -> str:
    from tabulate import tabulate

    parts = any(row.part for row in rows)
    several = len(systems) > 2  # then a column says which one is held against the first
    head = ["benchmark", "metric", *(["part"] if parts else []), *(["B"] if several else []), systems[0].name]
    head += ["its value" if several else systems[1].name, "difference", "95 % CI", "p", "", "images", "questions"]
    head += ["detectable"]
    lines = []
    for row in rows:
        r = row.result
        bounds = "–" if r.low is None or r.high is None else f"[{r.low:.2f}, {r.high:.2f}]"
        p = "–" if row.corrected is None else p_text(row.corrected).removeprefix("p ").removeprefix("= ")
        lines.append(
            [
                row.benchmark, row.metric, *([row.part[1]] if row.part else []), *([row.b] if several else []),
                _value(r.a_runs), _value(r.b_runs), f"{r.difference:+.2f}", bounds, p, stars(row), r.images,
                row.questions, "–" if r.detectable is None else f"{r.detectable:.2f}",
            ]
        )  # fmt: skip
    return f"{title}\n" + tabulate(lines, head, tablefmt="simple", disable_numparse=True)


def _value(runs: Sequence[float]) -> str:
    """The mean, with the standard deviation over runs where a system has several."""
    mean = statistics.fmean(runs)
    if len(runs) < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {statistics.stdev(runs):.2f} ({len(runs)} runs)"


def _changes(found: Comparison) -> str:
    lines = []
    for c in found.changed:
        lines.append(
            f"{c.benchmark}: only {c.a} right {c.only_a}, only {c.b} right {c.only_b}, both {c.both}, neither "
            f"{c.neither}{_reference(c)} (right: {c.meaning})"
        )
    return "\n".join(["Changed questions", *lines]) if lines else ""


def _reference(c: Changes) -> str:
    if c.mcnemar is None:
        return f", {c.undecided} on which a system's runs do not agree"
    return f"; McNemar, for reference, as if questions were independent: {p_text(c.mcnemar)}"


def as_json(found: Comparison, systems: Sequence[System]) -> str:
    """The comparison as JSON, numbers unrounded."""
    content = {
        "systems": [{"name": s.name, "runs": [str(run) for run in s.runs]} for s in systems],
        "correction": found.correction,
        "sentences": [sentence(row) for row in found.rows],
        "rows": [row.as_dict() for row in found.rows],
        "split": [row.as_dict() for row in found.split],
        "breakdowns": [row.as_dict() for row in found.parts],
        "cuts": found.cuts,
        "changed": [c.as_dict() for c in found.changed],
        "notes": found.notes,
    }
    return json.dumps(content, indent=1) + "\n"
