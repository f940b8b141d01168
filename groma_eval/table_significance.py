"""Which measured cells differ from a reference run beyond chance: signs for a table.

Both runs must have answered the same questions of a benchmark under one protocol; of other cells nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from groma_eval.core import HarnessError
from groma_eval.statistics import compare_stored, holm, read_stored
from groma_eval.table_choice import CellKey, Choice, Mark
from groma_eval.table_grid import Table
from groma_eval.table_runs import Run, read_run
from groma_eval.tables import build_table

LEVEL = 0.05
HIGHER, LOWER = "↑", "↓"


def compared_table(
    kind: str, runs: Sequence[Path], baselines: str | None, choice: Choice, against: Path | str
) -> Table:
    """:func:`groma_eval.tables.build_table` with the signs of :func:`significance`; where no cell bears one, the table
    says so."""
    marks, remark = significance(build_table(kind, runs, baselines, choice), runs, against)
    return build_table(kind, runs, baselines, replace(choice, marks=marks, remark=remark))


def significance(table: Table, runs: Iterable[Path | str], against: Path | str) -> tuple[dict[CellKey, Mark], str]:
    """Signs for the cells of ``table``, made of ``runs``, that differ from the run ``against``: ↑ above it, ↓ below;
    and where there are none, what to say instead.

    Each measured cell is tested by image (:func:`groma_eval.statistics.compare_stored`); p-values are corrected over
    all cells tested after Holm (Scandinavian Journal of Statistics 6, 1979).

    Raises HarnessError for a folder that is no finished run, or where no cell can be tested.
    """
    reference = read_run(Path(against))
    shown = _measured_cells(table)
    others = [run for run in map(read_run, dict.fromkeys(map(Path, runs))) if run.id != reference.id]
    tested: list[tuple[CellKey, float, float]] = []  # cell, difference, p
    pairs = [(run, kind) for run in others for kind in dict.fromkeys(grid.kind for grid in table.grids)]
    for run, kind in tqdm(pairs, desc="tests", leave=False, disable=None):
        tested += _tests(kind, run, reference, shown)
    if not tested:
        raise HarnessError(
            f"{against}: nothing to test against it: that takes another run of the table with the same questions under "
            "the same protocol, and both runs' stored answers"
        )
    name = f"{reference.model.get('name')} ({reference.id})"
    how = f"p < {LEVEL} (paired test by image, Holm over {len(tested)} cells)"
    signs = {True: Mark(HIGHER, f"higher than {name}, {how}"), False: Mark(LOWER, f"lower than {name}, {how}")}
    corrected = holm([p for _, _, p in tested])
    marks = {cell: signs[delta > 0] for (cell, delta, _), p in zip(tested, corrected) if p < LEVEL}
    return marks, "" if marks else f"No cell differs from {name} at {how}."


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
        values = {m: v for m, v in run.results[name]["metrics"].items() if (run.id, family, split, m) in shown}
        other = reference.find(kind, family, split)
        if not values or other is None or _rules(run, name) != _rules(reference, other):
            continue
        if not all((r.path / n / "samples.jsonl").is_file() for r, n in ((run, name), (reference, other))):
            continue
        stored = read_stored(reference.path, other), read_stored(run.path, name)
        if [_asked(item) for item in stored[0].items] != [_asked(item) for item in stored[1].items]:
            continue
        for metric, result in compare_stored([stored[0]], [stored[1]], list(values)).items():
            # What is tested must be what is printed: METEOR's data files, say, may have been there then and not now.
            if result.p is not None and math.isclose(result.b, values[metric], rel_tol=1e-3, abs_tol=1e-3):
                found.append(((run.id, family, split, metric), result.difference, result.p))
    return found


def _asked(item: object) -> tuple:
    """What must be the same for two runs to have answered the same question."""
    question = item.question
    return item.sample.image_id, question.id, question.kind, question.text, question.box, question.target


def _rules(run: Run, name: str) -> tuple:
    entry = run.benchmarks[name]
    return entry.get("version"), entry.get("protocol"), sorted(map(str, entry.get("deviations") or ()))
