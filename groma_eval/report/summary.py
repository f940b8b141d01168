"""The page's tables, written as HTML here so that they are read without scripts: summary, benchmarks, provenance."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from groma_eval.leakage import summarise
from groma_eval.metrics.about import find
from groma_eval.report.escape import Html, join, tag
from groma_eval.report.load import StoredRun

ALPHA = 0.05  # differences with a smaller p-value are marked


@dataclass
class Benchmark:
    """What the tables say of a benchmark: its manifest entry (the first run's), and by run number what was found."""

    name: str
    entry: Mapping[str, Any]
    finished: list[int]
    unfinished: list[int]
    intervals: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    differences: dict[str, Mapping[str, float]] = field(default_factory=dict)  # of two runs, by metric
    warnings: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return str(self.entry.get("title") or self.name)


def headline_table(runs: Sequence[StoredRun], benchmarks: Sequence[Benchmark]) -> Html:
    """Runs by benchmarks: the headline metric of each with its interval."""
    heads = [tag("th", "Run", scope="col")]
    for b in benchmarks:
        about = find(str(b.entry.get("task")), str(b.entry.get("headline")))
        name = tag("a", b.title, href=f"#view=summary&bench={_fragment(b.name)}", data_bench=b.name)
        heads.append(
            tag("th", name, tag("span", _headline(b), class_="sub", title=about and about.definition), scope="col")
        )
    rows = []
    for number, run in enumerate(runs):
        marks = {b.name: _marks(b, number, run) for b in benchmarks if number in b.finished}
        # What holds of every benchmark is said once, at the run.
        common = [text for text in next(iter(marks.values()), ()) if all(text in other for other in marks.values())]
        cells = [tag("th", _run_name(number, run), _badges(common), scope="row")]
        for b in benchmarks:
            if number in b.unfinished:
                cells.append(tag("td", _badge("incomplete", "warn"), class_="num"))
            elif number not in b.finished:
                cells.append(tag("td", tag("span", "–", aria_label="not run"), class_="num"))
            else:
                own = [mark for mark in marks[b.name] if mark not in common]
                cells.append(tag("td", _value(b, number, run, _headline(b)), _badges(own), class_="num"))
        rows.append(tag("tr", *cells))
    caption = tag("caption", "Headline figures with 95 % intervals, clustered by image")
    return _table(caption, heads, rows)


def benchmark_section(runs: Sequence[StoredRun], b: Benchmark) -> Html:
    """Every metric of a benchmark by run, the difference of two runs, and the counts."""
    shown = [(n, runs[n]) for n in (*b.finished, *b.unfinished)]
    heads = [tag("th", "Metric", scope="col"), *(tag("th", _run_name(n, r), scope="col") for n, r in shown)]
    if b.differences:
        heads.append(tag("th", "Difference", tag("span", "second less first", class_="sub"), scope="col"))
    names = list(dict.fromkeys(m for n in b.finished for m in runs[n].metrics[b.name]["metrics"]))
    rows = []
    for name in names:
        about = find(str(b.entry.get("task")), name)
        head = [tag("code", name)]
        if about:
            head.append(tag("span", f"{_definition(name, about.definition)} ({about.unit})", class_="sub"))
        if name == _headline(b):
            head.insert(1, _badge("headline", "plain"))
        cells = [tag("th", *head, scope="row")]
        for n, run in shown:
            cells.append(tag("td", _value(b, n, run, name) if n in b.finished else "–", class_="num"))
        if b.differences:
            cells.append(
                tag("td", _difference(b.differences.get(name), about and about.higher_is_better), class_="num")
            )
        rows.append(tag("tr", *cells))
    for name in dict.fromkeys(c for n in b.finished for c in runs[n].metrics[b.name].get("counts", {})):
        cells = [tag("th", name.replace("_", " "), tag("span", "count", class_="sub"), scope="row")]
        for n, run in shown:
            count = run.metrics[b.name].get("counts", {}).get(name) if n in b.finished else None
            wrong = count and name in ("unparsed", "missing", "failed", "unjudged")
            cells.append(tag("td", "–" if count is None else f"{count:,}", class_="num warn" if wrong else "num"))
        if b.differences:
            cells.append(tag("td"))
        rows.append(tag("tr", *cells, class_="count"))
    facts = [tag("li", tag("strong", _run_name(n, r)), ": ", *_protocol(r, b, n)) for n, r in shown]
    notes = [tag("p", _badge("note", "warn"), " ", text, class_="note") for text in b.warnings]
    return tag(
        "section",
        tag("h2", b.title, " ", tag("code", b.name)),
        *notes,
        _table(tag("caption", f"{b.title}: all metrics", class_="hidden"), heads, rows) if rows else None,
        tag("ul", *facts, class_="facts"),
        id=f"bench-{b.name}",
        class_="card",
    )


def provenance_section(number: int, run: StoredRun) -> Html:
    """Where a run's numbers come from."""
    manifest, model = run.manifest, run.model
    training = model.get("training_data")
    facts = {
        "Model": f"{model.get('name')} ({model.get('size')}; {_count(model.get('parameters'))} parameters)",
        "Notes": "; ".join(map(str, model.get("notes") or ())) or None,
        "Checkpoint": model.get("checkpoint"),
        "Checkpoint hash": model.get("checkpoint_hash"),
        "Boxes": f"{model.get('box_format')} in {model.get('frame')}",
        "Trained on": _training(training),
        "Run": manifest.get("run_id"),
        "Seed": manifest.get("seed"),
        "Command": _command(manifest.get("command")),
        "Hardware": _pairs(manifest.get("hardware")),
        "Versions": _pairs(manifest.get("versions")),
        "Answering took": _timings(manifest.get("timings")),
    }
    items = [
        part
        for name, text in facts.items()
        if text not in (None, "")
        for part in (tag("dt", name), tag("dd", text if isinstance(text, Html) else str(text)))
    ]
    title = tag("summary", _run_name(number, run))
    return tag("details", title, tag("dl", *items), class_="card provenance")


def _table(caption: Html, heads: Sequence[Html], rows: Sequence[Html]) -> Html:
    table = tag("table", caption, tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    # Wide tables scroll by themselves, so they must take the focus.
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="table")


def _fragment(text: str) -> str:
    return quote(text, safe="")


def _definition(metric: str, definition: str) -> str:
    """A definition with the metric's own threshold in place of T."""
    at = re.search(r"@([\d.]+)", metric)
    return re.sub(r"\bT\b", at.group(1), definition) if at else definition


def _headline(b: Benchmark) -> str:
    return str(b.entry.get("headline") or "")


def _run_name(number: int, run: StoredRun) -> Html:
    swatch = tag("span", class_=f"swatch run{min(number, 2)}", aria_hidden="true")
    name = str(run.model.get("name") or "")
    return join([swatch, run.label, tag("span", name, class_="sub") if name != run.label else ""])


def _value(b: Benchmark, number: int, run: StoredRun, metric: str) -> Html:
    value = run.metrics[b.name]["metrics"].get(metric)
    if not isinstance(value, int | float) or value != value:
        return tag("span", "–", aria_label="none")
    bounds = b.intervals.get(number, {}).get(metric)
    spread = tag("span", f"{bounds[0]:.1f} – {bounds[1]:.1f}", class_="interval") if bounds else None
    return tag("span", tag("span", f"{value:.1f}", class_="value"), spread, class_="figure")


def _difference(found: Mapping[str, float] | None, higher_is_better: bool | None) -> Html | str:
    if not found:
        return "–"
    apart = found["p"] < ALPHA
    kind = ""
    if apart and higher_is_better is not None:
        kind = "better" if (found["delta"] > 0) == higher_is_better else "worse"
    p = f"p = {found['p']:.3f}" if found["p"] >= 0.001 else "p < 0.001"
    return tag(
        "span",
        tag("span", f"{found['delta']:+.1f}".replace("-", "−"), "*" if apart else "", class_="value"),
        tag("span", f"{found['lo']:+.1f} – {found['hi']:+.1f}, {p}".replace("-", "−"), class_="interval"),
        class_=f"figure {kind}".strip(),
    )


def _badges(marks: Sequence[tuple[str, str]]) -> Html | None:
    return tag("span", *(_badge(text, kind) for text, kind in marks), class_="marks") if marks else None


def _marks(b: Benchmark, number: int, run: StoredRun) -> list[tuple[str, str]]:
    """What must be known beside a figure: text and kind of badge."""
    entry = run.entry(b.name) or {}
    marks = []
    status, images, of = summarise(entry)
    if status == "seen":
        marks.append((f"training saw {images:,} of {of:,} pictures", "warn"))
    elif status == "unknown" and not _is_bound(run):
        marks.append(("training data unknown", "plain"))
    if run.model.get("oracle"):
        marks.append(("sees the truth", "plain"))
    if entry.get("deviations"):
        marks.append(("departs from the protocol", "warn"))
    counts = run.metrics[b.name].get("counts", {})
    if wrong := sum(int(counts.get(name) or 0) for name in ("unparsed", "missing", "failed")):
        marks.append((f"{wrong:,} without answer", "warn"))
    if counts.get("unjudged"):
        marks.append((f"{counts['unjudged']:,} not judged", "warn"))
    return marks


def _is_bound(run: StoredRun) -> bool:
    return bool(run.model.get("oracle")) or str(run.model.get("name", "")).startswith("bound:")


def _protocol(run: StoredRun, b: Benchmark, number: int) -> list[Any]:
    entry = run.entry(b.name) or {}
    status, images, of = summarise(entry)
    leak = {
        "seen": f"its training saw {images} of the {of} test pictures",
        "clean": f"its training saw none of the {of} test pictures",
        "unknown": "whether its training saw the test pictures is not known",
    }[status]
    decoding = entry.get("decoding") if isinstance(entry.get("decoding"), Mapping) else {}
    parts: list[Any] = [f"protocol {entry.get('protocol')}, card version {entry.get('version')}"]
    if rules := _pairs(entry.get("rules")):
        parts.append(f"; rules {rules}")
    parts.append(f"; at most {decoding.get('max_new_tokens')} new tokens, ")
    parts.append("sampled" if decoding.get("do_sample") else "greedy")
    if not _is_bound(run):
        parts.append(f"; {leak}")
    parts.append(". ")
    if number in b.unfinished:
        parts += [_badge("incomplete", "warn"), " repeat its groma-eval run command to finish it. "]
    if deviations := entry.get("deviations"):
        parts += [_badge("departs from the card's protocol", "warn"), f" {', '.join(map(str, deviations))}."]
    return parts


def _badge(text: str, kind: str) -> Html:
    return tag("span", text, class_=f"badge {kind}")


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown number of"


def _command(command: Any) -> Html | None:
    return tag("code", shlex.join(map(str, command))) if isinstance(command, list) and command else None


def _pairs(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else ""


def _training(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "not stated"
    sets = [f"{source}: {', '.join(map(str, names))}" for source, names in (value.get("sets") or {}).items()]
    sets += [f"{source}: {n:,} single pictures" for source, n in (value.get("image_ids") or {}).items()]
    return "; ".join(sets or ["nothing"]) + ("" if value.get("complete") else " (not all is stated)")


def _timings(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    seconds = {k: v.get("answering_s") for k, v in value.items() if isinstance(v, Mapping)}
    return ", ".join(f"{name} {took:.0f} s" for name, took in seconds.items() if isinstance(took, int | float))
