"""Is one system better than another, where, and by how much: paired comparison of finished runs.

A system is a run folder, or several that are seeds of one training. The first system is the baseline that every other
one is held against, on the same questions, under the same protocol.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from groma_eval.breakdowns import breakdowns
from groma_eval.compare_changes import Changes, changes
from groma_eval.core import HarnessError
from groma_eval.metrics.about import find
from groma_eval.statistics import (
    Difference,
    StoredBenchmark,
    benjamini_hochberg,
    compare_stored,
    holm,
    read_stored,
)
from groma_eval.statistics.resample import RESAMPLES
from groma_eval.table_runs import read_run

CORRECTIONS = {"holm": holm, "bh": benjamini_hochberg, "none": list}
SPLIT = ("not_proposed", "not_selected")
_FIXED = ("task", "version", "protocol", "rules")  # what makes figures comparable at all
_SHOWN = ("deviations", "decoding")  # what a reader must know of


@dataclass(frozen=True)
class System:
    """A name and its runs: one, or the seeds of one training. By run, ``entries`` are the manifest's benchmarks and
    ``metrics`` the names of metrics.json."""

    name: str
    runs: tuple[Path, ...]
    entries: tuple[Mapping[str, Mapping[str, Any]], ...]
    metrics: tuple[Mapping[str, Sequence[str]], ...]

    def benchmarks(self) -> list[str]:
        """Finished in all of its runs, in the first one's order."""
        done = [
            [name for name, entry in entries.items() if entry.get("finished") and name in metrics]
            for entries, metrics in zip(self.entries, self.metrics)
        ]
        return [name for name in done[0] if all(name in names for names in done)]


@dataclass(frozen=True)
class Row:
    """One comparison. ``higher`` says whether more is better (None: neither); ``part`` is (breakdown, label)."""

    benchmark: str
    metric: str
    a: str
    b: str
    result: Difference
    questions: int
    higher: bool | None
    unit: str
    corrected: float | None = None
    part: tuple[str, str] | None = None

    @property
    def significant(self) -> bool:
        return self.corrected is not None and self.corrected < 0.05

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``p`` is as tested, ``p_corrected`` for the number of comparisons of its table."""
        head = {"benchmark": self.benchmark, "metric": self.metric, "a_name": self.a, "b_name": self.b}
        head |= {"breakdown": self.part[0], "part": self.part[1]} if self.part else {}
        return head | self.result.as_dict() | {"questions": self.questions, "p_corrected": self.corrected}


@dataclass
class Comparison:
    """``rows``: the metrics asked for; ``split``: misses by kind; ``parts``: the headline metric by breakdown, whose
    cuts ``cuts`` explains; ``changed``: questions that went from right to wrong or back. Every list is a family of its
    own for ``correction``."""

    correction: str
    rows: list[Row] = field(default_factory=list)
    split: list[Row] = field(default_factory=list)
    parts: list[Row] = field(default_factory=list)
    cuts: dict[str, str] = field(default_factory=dict)
    changed: list[Changes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_systems(given: Sequence[str]) -> list[System]:
    """Systems from ``RUN``, ``RUN1,RUN2`` (seeds) or ``NAME=RUN1,RUN2``; without a name the folders' own is taken.

    Raises:
        HarnessError: a folder that is no finished run, one system alone, or two of one name.
    """
    if len(given) < 2:
        raise HarnessError("compare needs two runs at least: groma-eval compare A B")
    systems = [_read_system(text) for text in given]
    names = [system.name for system in systems]
    if len(set(names)) < len(names):  # folders of one name in different places
        systems = [replace(s, name=",".join(map(str, s.runs))) if names.count(s.name) > 1 else s for s in systems]
    if len({system.name for system in systems}) < len(systems):
        raise HarnessError(f"'{systems[0].name}' is given twice: name different runs")
    return systems


def _read_system(text: str) -> System:
    name, places = "", text
    if not Path(text).is_dir() and "=" in text:
        name, places = text.split("=", 1)
    paths = [Path(places)] if places and Path(places).is_dir() else [Path(part) for part in places.split(",") if part]
    if not paths:
        raise HarnessError(f"'{text}' names no run folder")
    if len(set(paths)) < len(paths):
        raise HarnessError(f"'{text}' names a run twice: seeds are different runs")
    runs = [read_run(path) for path in paths]
    metrics = [
        {b: [m for m, v in r["metrics"].items() if v is not None] for b, r in run.results.items()} for run in runs
    ]
    name = name or "+".join(path.resolve().name for path in paths)
    return System(name, tuple(paths), tuple(run.benchmarks for run in runs), tuple(metrics))


def compare(
    systems: Sequence[System],
    benchmarks: Iterable[str] | None = None,
    metrics: Iterable[str] | None = None,
    *,
    correction: str = "holm",
    intersection: bool = False,
    anyway: bool = False,
    with_breakdowns: bool = True,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Hold every system against the first.

    Args:
        systems: from :func:`read_systems`.
        benchmarks: these alone; None: all that every system has finished.
        metrics: names, or ``["all"]``; None: each benchmark's headline metric.
        correction: ``holm``, ``bh`` or ``none``.
        intersection: compare the questions that all have where they differ, instead of refusing.
        anyway: compare runs of different protocols or card versions too, with a note.
        with_breakdowns: also the headline metric by parts.
        resamples: bootstrap draws, and swaps of the test.

    Raises:
        HarnessError: nothing in common; other protocols or questions without leave; unknown names.
    """
    from tqdm import tqdm

    names = _common(systems, None if benchmarks is None else list(benchmarks))
    asked = None if metrics is None else list(metrics)
    found = Comparison(correction)
    for name in tqdm(names, desc="benchmarks", leave=False, disable=None):
        found.notes += _checked_entries(systems, name, anyway)
        stored, notes = _paired(systems, name, intersection)
        found.notes += notes
        _add(found, systems, name, stored, asked, with_breakdowns, resamples)
    shown = {row.metric for row in found.rows}
    unknown = next((metric for metric in asked or () if metric not in shown and metric != "all"), None)
    if unknown is not None or not found.rows:
        have = sorted({m for s in systems for metrics in s.metrics for name in names for m in metrics[name]})
        raise HarnessError(f"metric '{unknown}' is not among those that all runs have: {', '.join(have)}")
    found.rows, found.split, found.parts = (_corrected(r, correction) for r in (found.rows, found.split, found.parts))
    return found


def _common(systems: Sequence[System], wanted: list[str] | None) -> list[str]:
    common = [name for name in systems[0].benchmarks() if all(name in s.benchmarks() for s in systems)]
    if wanted is None:
        if not common:
            raise HarnessError(f"{', '.join(s.name for s in systems)}: no benchmark that all have finished")
        return common
    for name in wanted:
        lacking = next((s.name for s in systems if name not in s.benchmarks()), None)
        if lacking is not None:
            raise HarnessError(
                f"{lacking}: has not finished benchmark '{name}'; all have {', '.join(common) or 'none'}"
            )
    return wanted


def _checked_entries(systems: Sequence[System], name: str, anyway: bool) -> list[str]:
    """Notes on what the runs do not have in common; HarnessError where that makes them incomparable."""
    runs = [(run, entries[name]) for s in systems for run, entries in zip(s.runs, s.entries)]
    first, reference = runs[0]
    notes = []
    for run, entry in runs[1:]:
        for key in (*_FIXED, *_SHOWN):
            mine, theirs = reference.get(key), entry.get(key)
            if mine == theirs:
                continue
            text = f"{name}: {key} is {_short(mine)} in {first} and {_short(theirs)} in {run}"
            if key in _FIXED and not anyway:
                raise HarnessError(f"{text}, so their figures do not compare; --anyway compares them all the same")
            notes.append(text)
    return notes


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else text[:117] + "..."


def _paired(systems: Sequence[System], name: str, intersection: bool) -> tuple[list[list[StoredBenchmark]], list[str]]:
    """Every system's stored runs of a benchmark, all with the same questions in the same order."""
    stored = [[read_stored(run, name, e[name]) for run, e in zip(s.runs, s.entries)] for s in systems]
    marks = [{item.question.id: _mark(item) for item in one.items} for side in stored for one in side]
    first = marks[0]
    shared = [key for key, mark in first.items() if all(other.get(key) == mark for other in marks[1:])]
    total = len(set().union(*marks))
    if len(shared) == total:
        return [[one if one.ids == shared else one.only(shared) for one in side] for side in stored], []
    runs = ", ".join(str(run) for s in systems for run in s.runs)
    if not shared:
        raise HarnessError(f"{name}: {runs} have no question in common, so they cannot be compared")
    if not intersection:
        raise HarnessError(
            f"{name}: {runs} have {len(shared)} of {total} questions in common; --intersection compares those alone"
        )
    note = f"{name}: compared on the {len(shared)} of {total} questions that all runs have"
    return [[one.only(shared) for one in side] for side in stored], [note]


def _mark(item: Any) -> str:
    """What must be the same for two runs to have answered the same question."""
    question = item.question
    asked = [item.sample.image_id, question.kind, question.text, question.box, question.target]
    return json.dumps(asked, sort_keys=True)


def _add(
    found: Comparison,
    systems: Sequence[System],
    name: str,
    stored: Sequence[Sequence[StoredBenchmark]],
    asked: list[str] | None,
    with_breakdowns: bool,
    resamples: int,
) -> None:
    """Add one benchmark's rows, splits, parts and changes to ``found``."""
    first = stored[0][0]
    known = _known_metrics(systems, name)
    if not known:
        found.notes.append(f"{name}: the runs have no metric in common")
        return
    headline = first.entry.get("headline")
    headline = headline if headline in known else known[0]
    chosen = [headline] if asked is None else known if asked == ["all"] else [m for m in known if m in asked]
    split = [metric for metric in SPLIT if metric in known]
    wanted = list(dict.fromkeys([*chosen, *split]))
    cuts = breakdowns(first) if with_breakdowns else []
    for system, side in zip(systems[1:], stored[1:]):
        names = systems[0].name, system.name
        compared = compare_stored(stored[0], side, wanted, resamples)
        rows = {metric: _row(first, metric, names, result) for metric, result in compared.items()}
        found.rows += [rows[metric] for metric in chosen if metric in rows]
        found.split += [rows[metric] for metric in split if metric in rows]
        for cut in cuts:
            found.cuts[cut.name] = cut.note
            for part in cut.parts:
                ids = [key for key in first.ids if key in part.ids]
                left, right = ([one.only(ids) for one in own] for own in (stored[0], side))
                result = compare_stored(left, right, [headline], resamples).get(headline)
                if result is not None:
                    found.parts.append(_row(left[0], headline, names, result, (cut.name, part.label)))
        found.changed += changes(names, stored[0], side)


def _known_metrics(systems: Sequence[System], name: str) -> list[str]:
    """Metrics of a benchmark that all the runs have."""
    runs = [metrics[name] for system in systems for metrics in system.metrics]
    return [metric for metric in runs[0] if all(metric in names for names in runs)]


def _row(
    stored: StoredBenchmark,
    metric: str,
    names: tuple[str, str],
    result: Difference,
    part: tuple[str, str] | None = None,
) -> Row:
    about = find(stored.task, metric)
    higher, unit = (about.higher_is_better, about.unit) if about else (None, "")
    return Row(stored.name, metric, *names, result, len(stored.items), higher, unit, part=part)


def _corrected(rows: list[Row], correction: str) -> list[Row]:
    tested = [row.result.p for row in rows if row.result.p is not None]
    ps = iter(CORRECTIONS[correction](tested))
    return [row if row.result.p is None else replace(row, corrected=next(ps)) for row in rows]
