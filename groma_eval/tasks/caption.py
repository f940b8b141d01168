"""Captions: text for a region (``describe``), or a scene caption with phrases tied to boxes (``describe_scene``).

Target: ``{"references": [str]}``; a region's may carry ``attributes`` (``{"colour": "red", ...}``), a scene's
``phrases`` (``[{"phrase": str, "boxes": [Box]}]``).

Rules: ``text`` is what of an answer is scored, ``parsed`` (the text without grounding markup) or ``released`` (the raw
answer, cleaned as :func:`released_text` does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from groma_eval.core import HarnessError, Prediction, Sample, SampleScore, TaskResult
from groma_eval.metrics.captions import score_captions
from groma_eval.metrics.phrases import attribute_scores, phrase_scores
from groma_eval.tasks.common import Answered, Regions, join, percent

#: This task's names of the caption metrics; each is 100 times what the reference tool gives.
_NAMES = {
    "CIDEr": "cider",
    "METEOR": "meteor",
    **{f"BLEU_{n}": f"bleu_{n}" for n in range(1, 5)},
    "ROUGE_L": "rouge_l",
}


def score(
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    regions: Mapping[str, Regions],
    rules: Mapping[str, Any],
) -> TaskResult:
    """CIDEr, METEOR, BLEU-1 to -4 and ROUGE-L over all questions, x100, and what the targets have besides, in percent.

    That is ``attr/NAME`` and ``phrase_*``. A count ``full_meteor`` says that METEOR had its synonyms and paraphrases;
    without it METEOR is that of exact and stem matches, which is lower than, and not comparable with, published METEOR.
    """
    if rules.get("text", "parsed") not in ("parsed", "released"):
        raise HarnessError(f"caption rules {dict(rules)}: 'text' is 'parsed' or 'released'; mend the card")
    if rules.get("text") == "released":
        predictions = {key: replace(p, text=released_text(p.raw)) for key, p in predictions.items()}
    answered, counts = join(samples, predictions, regions)
    found = score_captions(
        {a.question.id: a.prediction.text for a in answered},
        {a.question.id: list(a.question.target["references"]) for a in answered},
    )
    if found.full_meteor:
        counts["full_meteor"] = len(answered)
    metrics = {ours: 100.0 * found.metrics[name] for name, ours in _NAMES.items()}
    values: dict[str, dict[str, Any]] = {
        key: {ours: 100.0 * item[name] for name, ours in _NAMES.items()} for key, item in found.per_item.items()
    }
    metrics |= _attributes(answered, values)
    metrics |= _phrases(answered, values)
    return TaskResult(metrics, counts, [SampleScore(key, value) for key, value in values.items()])


def released_text(raw: str) -> str:
    """A raw answer as the released caption scripts clean it before they hand it to the metrics.

    Line breaks vanish without a space in their place; whatever stands between ``<`` and the next ``>`` goes, so that
    phrases stay and region tokens go; white space is collapsed; apostrophes at the ends go. ``[grounding]`` stays.
    """
    without = re.sub(r"<.*?>", "", raw.replace("\n", ""))
    return " ".join(without.split()).strip("'").strip()


def _attributes(answered: Sequence[Answered], values: dict[str, dict[str, Any]]) -> dict[str, float]:
    vocabulary: dict[str, set[str]] = {}
    for item in answered:
        for name, value in item.question.target.get("attributes", {}).items():
            vocabulary.setdefault(name, set()).add(value)
    options = {name: sorted(found) for name, found in vocabulary.items()}
    hits: dict[str, list[float]] = {name: [] for name in options}
    for item in answered:
        named = attribute_scores(item.prediction.text, item.question.target.get("attributes", {}), options)
        for name, right in named.items():
            hits[name].append(float(right))
            values[item.question.id][f"attr/{name}"] = float(right)
    return {f"attr/{name}": percent(sum(found), len(found)) for name, found in hits.items()}


def _phrases(answered: Sequence[Answered], values: dict[str, dict[str, Any]]) -> dict[str, float]:
    total = {"tp": 0, "n_pred": 0, "n_gt": 0}
    for item in answered:
        if "phrases" in item.question.target:
            counted = phrase_scores(item.prediction.phrases, item.question.target["phrases"])
            values[item.question.id] |= {f"phrase_{key}": value for key, value in counted.items()}
            total = {key: total[key] + counted[key] for key in total}
    if not total["n_gt"]:
        return {}
    return {
        "phrase_f1": percent(2 * total["tp"], total["n_pred"] + total["n_gt"]),
        "phrase_precision": percent(total["tp"], total["n_pred"]),
        "phrase_recall": percent(total["tp"], total["n_gt"]),
    }
