"""All caption metrics of one set of captions, as pycocoevalcap 1.2 prints them, without Java."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from groma_eval.core import HarnessError
from groma_eval.metrics.bleu import bleu_of
from groma_eval.metrics.cider import cider_of
from groma_eval.metrics.meteor import FEW_MATCHERS, METEOR_NOTE, meteor, meteor_matchers
from groma_eval.metrics.ngrams import check_captions, count_ngrams
from groma_eval.metrics.ptb import tokenise_captions
from groma_eval.metrics.rouge import rouge_l

ORIGINAL = "CIDEr-original"


@dataclass(frozen=True)
class CaptionScores:
    """BLEU_1 to BLEU_4, METEOR, ROUGE_L and CIDEr on the reference tool's scale: 0 to 1, CIDEr 0 to 10; more is better.

    ``per_item`` has the same names by item id. ``notes`` are single lines that belong beside the figures.
    ``full_meteor``: whether METEOR had its synonyms and paraphrases, without which it compares with no published one.
    """

    metrics: dict[str, float]
    per_item: dict[str, dict[str, float]]
    full_meteor: bool
    notes: list[str] = field(default_factory=list)


def score_captions(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    meteor_data: str | Path | None = None,
    only_predicted: bool = False,
    original: bool = False,
) -> CaptionScores:
    """All metrics of ``candidates`` (one text an id) against ``references`` (one or more texts an id).

    Every id of ``references`` counts, one without a candidate as an empty answer. With ``only_predicted`` ids without a
    candidate are left out instead, as users of the reference tool do. The order of ``references`` is that in which the
    texts are tokenised, which in rare cases matters (see :func:`groma_eval.metrics.ptb.tokenise_captions`).
    ``meteor_data``: see :func:`groma_eval.metrics.meteor.meteor`. ``original`` adds CIDEr-original.

    Raises:
        HarnessError: a candidate's id is not in ``references``, an id has no reference text, or nothing is left.
    """
    unknown = next((key for key in candidates if key not in references), None)
    if unknown is not None:
        raise HarnessError(f"caption {unknown!r}: no reference has this id; are these captions of another set?")
    notes = []
    missing = len(references) - len(candidates)
    if missing and only_predicted:
        notes.append(f"only predicted items are scored: {missing} of {len(references)} are left out")
        references = {key: texts for key, texts in references.items() if key in candidates}
    elif missing:
        notes.append(f"{missing} of {len(references)} items have no prediction and count as empty captions")
    texts = {key: candidates.get(key, "") for key in references}
    check_captions(texts, references)
    with _garbage_kept():
        scores = _score(texts, references, meteor_data, original)
    full = meteor_matchers(meteor_data) != FEW_MATCHERS
    if not full:
        notes.append(METEOR_NOTE)
    return CaptionScores(
        {name: corpus / 100.0 for name, (corpus, _) in scores.items()},
        {key: {name: items[key] / 100.0 for name, (_, items) in scores.items()} for key in references},
        full,
        notes,
    )


def _score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    meteor_data: str | Path | None,
    original: bool,
) -> dict[str, tuple[float, dict[str, float]]]:
    """Each metric's corpus and per-item figures, x100."""
    # Tokens, joined by spaces: each metric splits them in its own way, as in the reference tool.
    said = dict(zip(candidates, _tokenised(list(candidates.values()))))
    flat = iter(_tokenised([other for others in references.values() for other in others]))
    known = {key: [next(flat) for _ in others] for key, others in references.items()}

    grams = count_ngrams(said, known, str.split)
    corpus_bleu, item_bleu = bleu_of(grams)
    scores = {f"BLEU_{n}": (corpus_bleu[n - 1], {k: v[n - 1] for k, v in item_bleu.items()}) for n in range(1, 5)}
    scores["METEOR"] = meteor(said, known, _at_spaces, data=meteor_data)
    scores["ROUGE_L"] = rouge_l(said, known, _at_spaces)
    scores["CIDEr"] = cider_of(grams)
    if original:
        scores[ORIGINAL] = cider_of(grams, original=True)
    return scores


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """No garbage collection meanwhile: scoring makes very many small objects and no cycles, a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tokenised(texts: Sequence[str]) -> list[str]:
    return [" ".join(tokens) for tokens in tokenise_captions(texts)]


def _at_spaces(tokens: str) -> list[str]:
    return tokens.split(" ") if tokens else []
