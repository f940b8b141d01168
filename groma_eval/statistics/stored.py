"""A run folder's benchmark as stored statistics: every metric of its task as a function of the images' weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from groma_eval.core import HarnessError, Prediction, Question, Sample
from groma_eval.judge.reviews import stored_scores
from groma_eval.metrics.yesno import read_label
from groma_eval.statistics.captioning import caption_statistics
from groma_eval.statistics.detection import (
    as_many_statistics,
    lvis_statistics,
    precision_statistics,
    proposal_statistics,
)
from groma_eval.statistics.resample import Statistic
from groma_eval.statistics.sums import OfSums, f1, mean, per_image, share, share_or_zero
from groma_eval.store import BenchmarkStore, predictions_of, read_store_json
from groma_eval.tasks.caption import released_text
from groma_eval.tasks.common import Regions

Scores = Mapping[str, Any]  # one question's stored scores

# LLaVA-Bench's categories as groma_eval.tasks.vqa prints them.
_CATEGORY_NAMES = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}


@dataclass(frozen=True)
class Item:
    """One question as stored: its image, its answer and its scores."""

    sample: Sample
    question: Question
    prediction: Prediction
    scores: Scores


@dataclass(frozen=True)
class StoredBenchmark:
    """A benchmark of a finished run, in file order. ``entry`` is what the manifest says of it."""

    run: Path
    name: str
    entry: Mapping[str, Any]
    items: tuple[Item, ...]
    regions: Mapping[str, Regions]
    reviews: Mapping[str, tuple[float, float] | None] | None = None

    @property
    def task(self) -> str:
        return str(self.entry["task"])

    @property
    def ids(self) -> list[str]:
        return [item.question.id for item in self.items]

    def only(self, ids: Iterable[str]) -> StoredBenchmark:
        """The benchmark with these of its questions alone, in the order given; images without any are gone."""
        own = {item.question.id: item for item in self.items}
        return replace(self, items=tuple(own[key] for key in ids))


def read_stored(run: str | Path, name: str, entry: Mapping[str, Any] | None = None) -> StoredBenchmark:
    """Read RUN/NAME. ``entry``: the manifest's entry, read from the run where it is not given.

    Raises:
        HarnessError: no such run or benchmark, or one that is not finished.
    """
    run = Path(run)
    if entry is None:
        entry = read_store_json(run / "manifest.json").get("benchmarks", {}).get(name)
        if entry is None:
            raise HarnessError(f"{run}: has no benchmark '{name}'")
    store = BenchmarkStore(run / name)
    if not store.finished():
        raise HarnessError(f"{run / name}: the run is not finished; repeat its groma-eval run command")
    samples, records = store.samples(), store.load()
    predictions = predictions_of(records.values())
    scores = stored_scores_of(run / name)
    items = tuple(
        Item(sample, question, _usable(question, predictions), scores.get(question.id, {}))
        for sample in samples
        for question in sample.questions
    )
    if not items:
        raise HarnessError(f"{run / name}: holds no questions; repeat its groma-eval run command")
    judged = entry.get("rules", {}).get("match") == "judge"
    reviews = stored_scores(run / name, samples, predictions) if judged else None
    return StoredBenchmark(run, name, entry, items, records.regions(), reviews)


def stored_scores_of(folder: Path) -> dict[str, Scores]:
    """Scores by question id from ``folder``/samples.jsonl."""
    return {row["id"]: row["scores"] for row in sample_rows(folder)}


def sample_rows(folder: Path) -> Iterable[dict[str, Any]]:
    """The lines of ``folder``/samples.jsonl. Raises HarnessError naming file and line."""
    import json

    path = folder / "samples.jsonl"
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                row["id"], row["scores"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise HarnessError(f"{path}: line {number}: not a stored sample ({error})") from None
            yield row


def _usable(question: Question, predictions: Mapping[str, Prediction]) -> Prediction:
    """The prediction; an empty one where its status is not ok, as the tasks score it."""
    given = predictions.get(question.id)
    if given is not None and given.status == "ok":
        return given
    return Prediction(question.id, status=given.status if given else "missing")


def statistics_of(stored: StoredBenchmark, metrics: Collection[str] | None = None) -> dict[str, Statistic]:
    """Every metric of the benchmark as :class:`Statistic`, under the names of metrics.json and in its units.

    Left out is what has nothing to be measured from (no object of that size, no judge's scores). ``metrics``: what is
    asked for, so that costly others need not be prepared; None: all.

    Raises:
        HarnessError: an unknown task, or samples that lack their scores.
    """
    if stored.task not in _TASKS:
        raise HarnessError(f"{stored.run / stored.name}: statistics of task '{stored.task}' are not known")
    made = _TASKS[stored.task](Columns(stored, metrics))
    return made if metrics is None else {name: made[name] for name in metrics if name in made}


class Columns:
    """The stored questions as columns, with each question's image by number."""

    def __init__(self, stored: StoredBenchmark, metrics: Collection[str] | None = None) -> None:
        self.stored = stored
        self._metrics = metrics
        self.items = stored.items
        self.rules = stored.entry.get("rules", {})
        known: dict[str, int] = {}
        self.numbers = np.array([known.setdefault(item.sample.image_id, len(known)) for item in self.items])
        self.images = len(known)

    def wants(self, *starts: str) -> bool:
        """Whether any metric of such a name is asked for."""
        return self._metrics is None or any(name.startswith(starts) for name in self._metrics)

    def score(self, name: str) -> np.ndarray:
        """One stored score a question, NaN where it has none."""
        values = [item.scores.get(name) for item in self.items]
        return np.array([np.nan if value is None else float(value) for value in values])

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for item in self.items for name in item.scores))

    def sums(self, *columns: np.ndarray) -> np.ndarray:
        return per_image(self.numbers, self.images, columns)

    def share(self, column: np.ndarray, among: np.ndarray | None = None) -> OfSums:
        """The percentage that a column of 0 to 1 is on the mean, over all questions or ``among`` some."""
        return OfSums(self.sums(*_kept(column, among)), share)

    def mean(self, column: np.ndarray, among: np.ndarray | None = None) -> OfSums:
        """The mean of a column that is in the metric's unit."""
        return OfSums(self.sums(*_kept(column, among)), mean)

    def groups(self) -> dict[str, np.ndarray]:
        """Which questions (bool) belong to each group; a group ``a/b`` belongs to both."""
        parts = [set(filter(None, (item.question.group or "").split("/"))) for item in self.items]
        return {name: np.array([name in own for own in parts]) for name in sorted(set().union(*parts))}


def _kept(column: np.ndarray, among: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    inside = np.ones(len(column), dtype=bool) if among is None else among
    return np.where(inside, column, 0.0), inside


def _rec(columns: Columns) -> dict[str, Statistic]:
    names = columns.names()
    if "acc@0.5" not in names:
        raise HarnessError(
            f"{columns.stored.run / columns.stored.name}: samples without scores; run groma-eval score on the run"
        )
    made: dict[str, Statistic] = {}
    for name in names:
        made["miou" if name == "iou" else name] = columns.share(np.nan_to_num(columns.score(name)))
    for group, among in columns.groups().items():
        made[f"acc@0.5/{group}"] = columns.share(columns.score("acc@0.5"), among)
    return made


def _vqa(columns: Columns) -> dict[str, Statistic]:
    match = columns.rules.get("match", "short")
    if match == "judge":
        return _judged(columns)
    right = columns.score("accuracy")
    made: dict[str, Statistic] = {"accuracy": columns.share(right)}
    if match == "yesno":
        made |= _yes_no(columns, right)
    else:
        overlap = columns.score("f1")
        if (there := np.isfinite(overlap)).any():
            made["f1"] = columns.share(overlap, there)
    for group, among in columns.groups().items():
        made[f"accuracy/{group}"] = columns.share(right, among)
    return made


def _yes_no(columns: Columns, right: np.ndarray) -> dict[str, Statistic]:
    yes = np.array([read_label(item.question.target["answer"]) == "yes" for item in columns.items])
    found, said = yes * right, np.where(yes, right, 1.0 - right)  # right answers of yes; answers that count as yes
    return {
        "precision": OfSums(columns.sums(found, said), share_or_zero),
        "recall": OfSums(columns.sums(found, yes), share_or_zero),
        "f1": OfSums(columns.sums(found, said, yes), f1),
        "yes_ratio": columns.share(columns.score("yes")),
    }


def _judged(columns: Columns) -> dict[str, Statistic]:
    words = np.array([len(item.prediction.text.split()) for item in columns.items], dtype=np.float64)
    made: dict[str, Statistic] = {"answer_words": columns.mean(words)}
    reviews = columns.stored.reviews or {}
    if any(item.question.id not in reviews for item in columns.items):
        return made
    pairs = [reviews[item.question.id] for item in columns.items]
    usable = np.array([pair is not None for pair in pairs])
    reference, model = np.array([pair or (0.0, 0.0) for pair in pairs]).T
    categories = [str(item.question.target.get("category", "")) for item in columns.items]
    names = np.array([_CATEGORY_NAMES.get(category, category or "other") for category in categories])
    for name in ("overall", *dict.fromkeys(names.tolist())):
        among = usable & ((names == name) | (name == "overall"))
        if (reference * among).sum() > 0:
            made[f"score/{name}"] = OfSums(columns.sums(model * among, reference * among), share)
    made["reference_mean"] = columns.mean(10 * reference, usable)
    made["model_mean"] = columns.mean(10 * model, usable)
    return made


def _caption(columns: Columns) -> dict[str, Statistic]:
    made: dict[str, Statistic] = {name: columns.mean(columns.score(name)) for name in ("cider", "rouge_l")}
    if columns.wants("bleu", "meteor"):
        released = columns.rules.get("text") == "released"
        said = {
            i.question.id: released_text(i.prediction.raw) if released else i.prediction.text for i in columns.items
        }
        references = {i.question.id: list(i.question.target["references"]) for i in columns.items}
        made |= caption_statistics(said, references, columns.numbers, columns.images)
    for name in columns.names():
        if name.startswith("attr/"):
            right = columns.score(name)
            made[name] = columns.share(right, np.isfinite(right))
    matched, given, wanted = (np.nan_to_num(columns.score(f"phrase_{key}")) for key in ("tp", "n_pred", "n_gt"))
    if wanted.sum():
        made["phrase_f1"] = OfSums(columns.sums(matched, given, wanted), f1)
        made["phrase_precision"] = OfSums(columns.sums(matched, given), share_or_zero)
        made["phrase_recall"] = OfSums(columns.sums(matched, wanted), share)
    return made


def _grounding(columns: Columns) -> dict[str, Statistic]:
    records = [_record(item, columns.rules) for item in columns.items]
    made: dict[str, Statistic] = {}
    if columns.wants("ar"):
        recall = lvis_statistics if columns.rules.get("metric") == "lvis" else as_many_statistics
        made = recall(records, columns.numbers, columns.images)
    matched, given, wanted = (columns.score(name) for name in ("tp", "n_pred", "n_gt"))
    if wanted.sum():
        made["recall@0.5"] = OfSums(columns.sums(matched, wanted), share)
        made["precision@0.5"] = OfSums(columns.sums(matched, given), share_or_zero)
        made["f1@0.5"] = OfSums(columns.sums(matched, given, wanted), f1)
    if columns.wants("ap"):
        made |= precision_statistics(records, columns.numbers, columns.images)
    if columns.stored.regions and wanted.sum():
        for name in ("not_proposed", "not_selected"):
            made[name] = OfSums(columns.sums(np.nan_to_num(columns.score(name)), wanted), share)
    return made


def _record(item: Item, rules: Mapping[str, Any]) -> dict[str, Any]:
    target = item.question.target
    return {
        "width": item.sample.width,
        "height": item.sample.height,
        "category": target["category"],
        "frequency": target.get("frequency"),
        "exhaustive": target.get("exhaustive", True),
        "boxes": item.prediction.boxes,
        "confidences": None if rules.get("rank") == "emission" else item.prediction.confidences,
        "gt_boxes": target["boxes"],
        "gt_areas": target.get("areas"),
    }


def _proposals(columns: Columns) -> dict[str, Statistic]:
    rows = []
    for item in columns.items:
        target, regions = item.question.target, columns.stored.regions.get(item.sample.image_id)
        usable = item.prediction.status == "ok" and regions is not None
        rows.append(
            {
                "width": item.sample.width,
                "height": item.sample.height,
                "boxes": regions.boxes if usable else [],
                "scores": regions.objectness if usable else None,
                "gt_boxes": target["boxes"],
                "gt_areas": target.get("areas"),
                "gt_iscrowd": target.get("iscrowd"),
            }
        )
    return proposal_statistics(rows, columns.numbers, columns.images)


_TASKS: dict[str, Callable[[Columns], dict[str, Statistic]]] = {
    "rec": _rec,
    "vqa": _vqa,
    "caption": _caption,
    "grounding": _grounding,
    "proposals": _proposals,
}
