"""Which measured cells differ from a reference run beyond chance: signs for a table.

Both runs must have answered the same questions of a benchmark under one protocol. A metric is tested where it is the
mean of stored scores of single questions, which is checked against metrics.json; of others nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from groma_eval.core import HarnessError
from groma_eval.stats import paired_bootstrap
from groma_eval.table_choice import CellKey, Mark
from groma_eval.table_grid import Table
from groma_eval.table_runs import Run, read_run

LEVEL = 0.05
RESAMPLES = 10_000
HIGHER, LOWER = "↑", "↓"


def significance(table: Table, runs: Iterable[Path | str], against: Path | str) -> dict[CellKey, Mark]:
    """Signs for the cells of ``table``, made of ``runs``, that differ from the run ``against``: ↑ above it, ↓ below.

    Each measured cell is tested by a paired bootstrap over images (:func:`groma_eval.stats.paired_bootstrap`);
    p-values are corrected over all cells tested after Holm (Scandinavian Journal of Statistics 6, 1979).

    Raises HarnessError for a folder that is no finished run, or where no cell can be tested.
    """
    reference = read_run(Path(against))
    shown = _measured_cells(table)
    others = [run for run in map(read_run, dict.fromkeys(map(Path, runs))) if run.id != reference.id]
    tested: list[tuple[CellKey, float, float]] = []  # cell, difference, p
    for run in others:
        for kind in dict.fromkeys(grid.kind for grid in table.grids):
            tested += _tests(kind, run, reference, shown)
    if not tested:
        raise HarnessError(
            f"{against}: nothing to test against it: that takes another run of the table with the same questions under "
            "the same protocol, and a metric that is a mean over questions"
        )
    name = f"{reference.model.get('name')} ({reference.id})"
    how = f"than {name}, p < {LEVEL} (paired bootstrap over images, Holm over {len(tested)} cells)"
    signs = {True: Mark(HIGHER, f"higher {how}"), False: Mark(LOWER, f"lower {how}")}
    kept = holm([p for _, _, p in tested])
    return {cell: signs[delta > 0] for (cell, delta, _), small in zip(tested, kept) if small}


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several hypotheses Holm's step-down method rejects, so that at ``level`` none is rejected wrongly."""
    rejected = [False] * len(p_values)
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def _measured_cells(table: Table) -> set[CellKey]:
    return {
        (row.source, column.family, column.split, column.metric)
        for grid in table.grids
        for row in grid.rows
        for column, cell in zip(grid.columns, row.cells)
        if row.section != "Published" and column.metric and cell.value is not None
    }


def _tests(kind: str, run: Run, reference: Run, shown: set[CellKey]) -> list[tuple[CellKey, float, float]]:
    found = []
    for (family, split), name in run.places(kind).items():
        metrics = [m for m in run.results[name]["metrics"] if (run.id, family, split, m) in shown]
        other = reference.find(kind, family, split)
        if not metrics or other is None or _rules(run, name) != _rules(reference, other):
            continue
        ours, theirs = (_samples(r, n) for r, n in ((run, name), (reference, other)))
        if ours.keys() != theirs.keys():
            continue
        for metric in metrics:
            a = _scores(ours, metric, run.results[name]["metrics"][metric])
            b = _scores(theirs, metric, reference.results[other]["metrics"].get(metric))
            if a is None or b is None or a.keys() != b.keys():
                continue
            images = [ours[key]["image_id"] for key in a]
            test = paired_bootstrap(list(a.values()), [b[key] for key in a], images, resamples=RESAMPLES)
            found.append(((run.id, family, split, metric), test["delta"], test["p"]))
    return found


def _rules(run: Run, name: str) -> tuple:
    entry = run.benchmarks[name]
    return entry.get("version"), entry.get("protocol"), sorted(map(str, entry.get("deviations") or ()))


def _samples(run: Run, name: str) -> dict[str, dict]:
    """A benchmark's rows of samples.jsonl by question id; none where the file is not there."""
    path = run.path / name / "samples.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return {row["id"]: {key: row[key] for key in ("image_id", "group", "scores")} for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{path}: cannot be read ({error}); score the run again") from None


def _scores(samples: dict[str, dict], metric: str, value: float | None) -> dict[str, float] | None:
    """The single scores whose mean ``metric`` is, by question; None where it is no such mean. ``NAME/GROUP`` is the
    mean of NAME over the questions of that group."""
    base, _, group = metric.partition("/")
    for name, wanted in ((metric, None), (base, group)):
        found = {
            key: row["scores"][name]
            for key, row in samples.items()
            if row["scores"].get(name) is not None and (wanted is None or row["group"] == wanted)
        }
        if found and value is not None and all(isinstance(score, int | float) for score in found.values()):
            mean = sum(found.values()) / len(found)
            # Scores are stored to six digits, as shares or in percent.
            if any(abs(mean * scale - value) <= 1e-6 * scale for scale in (1, 100)):
                return {key: float(score) for key, score in found.items()}
    return None
