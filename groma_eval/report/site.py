"""Writing the report: read the runs, work out tables, plots and gallery, and put the finished folder in place."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.report import page
from groma_eval.report.compare import differences_of, intervals_of
from groma_eval.report.escape import clean, script
from groma_eval.report.gallery import CHUNK, build_gallery
from groma_eval.report.load import StoredRun, read_answers, read_images, read_runs
from groma_eval.report.pictures import make_copies
from groma_eval.report.series import series_of
from groma_eval.report.summary import Benchmark

MAX_RUNS = 8


@dataclass(frozen=True)
class Written:
    """Where the report is, its size in bytes, and how many of its pictures could not be read."""

    index: Path
    size: int
    questions: int
    pictures: int
    missing: int


def write_report(
    runs: Sequence[Path | str], out: Path | str, title: str = "Evaluation report", progress: bool = True
) -> Written:
    """Write the report of ``runs`` (folders of ``groma-eval run``) into the folder ``out``.

    An earlier report there is replaced, in one step at the end; any other folder that is not empty is left alone. A
    picture that cannot be read is a placeholder in the page.

    Raises:
        HarnessError: no or too many runs, a run that does not read, or a place that cannot be written.
    """
    if not 1 <= len(runs) <= MAX_RUNS:
        raise HarnessError(f"{len(runs)} runs: a report holds 1 to {MAX_RUNS}")
    target = Path(out)
    _check_place(target)
    stored = read_runs([Path(run) for run in runs])
    if any(target.resolve().is_relative_to(run.path) or run.path.is_relative_to(target.resolve()) for run in stored):
        raise HarnessError(f"--out {target}: inside or around a run; give a folder of its own")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise HarnessError(f"--out {target}: cannot be written ({error.strerror})") from None
    try:
        counted = _write(stored, beside, title, progress)
        beside.chmod(0o755)
        _swap(beside, target)
    except OSError as error:
        raise HarnessError(f"--out {target}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return Written(target / "index.html", size, *counted)


def _check_place(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise HarnessError(f"--out {target} is a file; give a folder")
    if target.is_dir() and any(target.iterdir()) and not _is_report(target):
        raise HarnessError(f"--out {target} holds something other than a report; give another folder or empty it")


def _is_report(target: Path) -> bool:
    try:
        return page.MARK in (target / "index.html").read_text(encoding="utf-8", errors="replace")[:4000]
    except OSError:
        return False


def _swap(beside: Path, target: Path) -> None:
    """Put the folder ``beside`` at ``target``; what was there goes once the new one stands."""
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        os.replace(target, old)
    try:
        os.replace(beside, target)
    except OSError:
        if old is not None:
            os.replace(old, target)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _write(runs: Sequence[StoredRun], folder: Path, title: str, progress: bool) -> tuple[int, int, int]:
    """Fill ``folder``; returns the numbers of questions, pictures, and pictures that could not be read."""
    from tqdm import tqdm

    names = list(dict.fromkeys(name for run in runs for name in run.manifest["benchmarks"]))
    if not names:
        raise HarnessError(f"{runs[0].path}: the run holds no benchmark")
    for name in ("assets", "data"):
        (folder / name).mkdir()
    for asset in files("groma_eval.report").joinpath("assets").iterdir():
        if asset.name.endswith((".js", ".css", ".svg")):
            (folder / "assets" / asset.name).write_bytes(asset.read_bytes())
    numbers = make_copies(_recorded(runs, names), folder / "pictures", progress)
    benchmarks, listed = [], []
    questions = 0
    with tqdm(names, desc="benchmarks", unit="benchmark", file=sys.stderr, disable=not progress) as bar:
        for place, name in enumerate(bar):
            benchmark, entry = _one(runs, name, place, numbers, folder / "data")
            benchmarks.append(benchmark)
            listed.append(entry)
            questions += entry["questions"]
    index = {
        "title": title,
        "runs": [{"label": run.label, "model": str(run.model.get("name") or "")} for run in runs],
        "benchmarks": listed,
        "chunk": CHUNK,
    }
    _put(folder / "data", "index", clean(index))
    (folder / "index.html").write_text(page.render(title, runs, benchmarks), encoding="utf-8")
    distinct = {number for number in numbers.values() if number is not None}
    return questions, len(distinct), sum(number is None for number in numbers.values())


def _recorded(runs: Sequence[StoredRun], names: Sequence[str]) -> dict[str, tuple[str | None, float, float]]:
    """Content hash and size of every recorded picture, by path."""
    found: dict[str, tuple[str | None, float, float]] = {}
    for run in runs:
        for name in names:
            if run.finished(name):
                for image in read_images(run, name).values():
                    path, content = image["path"], image.get("file_hash")
                    if path and (path not in found or found[path][0] is None):
                        content = content if isinstance(content, str) else None
                        found[path] = (content, image["width"], image["height"])
    return found


def _one(
    runs: Sequence[StoredRun], name: str, place: int, pictures: dict[str, int | None], folder: Path
) -> tuple[Benchmark, dict[str, Any]]:
    """Work out and write one benchmark; returns what the tables need and its entry in the page's index."""
    with_it = [n for n, run in enumerate(runs) if run.entry(name) is not None]
    finished = {n: read_answers(runs[n], name) for n in with_it if runs[n].finished(name)}
    benchmark = Benchmark(
        name, runs[with_it[0]].entry(name) or {}, list(finished), [n for n in with_it if n not in finished]
    )
    task = str(benchmark.entry.get("task"))
    entry: dict[str, Any] = {"name": name, "title": benchmark.title, "task": task, "questions": 0, "series": {}}
    for n, answers in finished.items():
        benchmark.intervals[n] = intervals_of(runs[n], name)
        rules = runs[n].entry(name).get("rules")  # type: ignore[union-attr]
        entry["series"][n] = series_of(task, answers, rules if isinstance(rules, dict) else {})
    if any(answers.rows for answers in finished.values()):
        gallery = build_gallery(name, {n: (runs[n], answers) for n, answers in finished.items()}, pictures)
        entry["questions"] = len(gallery.listing["ids"])
        entry["data"] = f"b{place}"
        _put(folder, f"b{place}-list", gallery.listing)
        for part, details in enumerate(gallery.details):
            _put(folder, f"b{place}-d{part}", details)
        for n, parts in gallery.proposals.items():
            for part, proposals in enumerate(parts):
                _put(folder, f"b{place}-p{n}-{part}", proposals)
        entry["proposals"] = list(gallery.proposals)
        benchmark.warnings += _warnings(runs, name, list(finished), gallery.differing)
    if len(runs) == 2 and len(finished) == 2:
        benchmark.differences = differences_of(runs[0], runs[1], name)
    return benchmark, entry


def _warnings(runs: Sequence[StoredRun], name: str, finished: Sequence[int], differing: dict[int, int]) -> list[str]:
    """What keeps the runs' figures from being set side by side."""
    warnings = []
    for what, field in (("protocols", "protocol"), ("card versions", "version"), ("rules", "rules")):
        if len({str((runs[n].entry(name) or {}).get(field)) for n in finished}) > 1:
            warnings.append(f"The runs were made under different {what}: their figures do not compare.")
    if len({tuple(sorted(map(str, (runs[n].entry(name) or {}).get("deviations") or ()))) for n in finished}) > 1:
        warnings.append("The runs depart from the card's protocol in different ways.")
    asked = {runs[n].metrics[name].get("counts", {}).get("questions") for n in finished}
    if len(asked) > 1:
        warnings.append("The runs answered different numbers of questions: their figures are not of the same samples.")
    for n, count in differing.items():
        if count:
            warnings.append(
                f"{count:,} questions of {runs[n].label} differ from those of the same id in "
                f"{runs[finished[0]].label}; they are not set side by side."
            )
    return warnings


def _put(folder: Path, name: str, content: Any) -> None:
    (folder / f"{name}.js").write_text(script(name, content), encoding="ascii")
