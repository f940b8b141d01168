"""What every metric that is printed means: unit, range, direction, definition, source and version.

:data:`METRICS` goes by task, because tasks share names: ``ar_s`` of grounding is not that of proposals. Capitals stand
for what varies: ``acc@T`` is ``acc@0.5``, ``attr/NAME`` is ``attr/colour``. ``score KIND`` names what ``groma-eval
score KIND`` prints where that is not the task's: figures in the reference tools' own names and units.

A version is raised when the same answers would get another number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """One metric. ``range`` is (lowest, highest), None: no bound; ``higher_is_better`` None: neither is."""

    definition: str
    citation: str
    unit: str = "%"
    range: tuple[float, float | None] = (0, 100)
    higher_is_better: bool | None = True
    version: int = 1

    @property
    def scale(self) -> str:
        """Unit, range, direction and version in words."""
        low, high = self.range
        span = f"{low:g} to {high:g}" if high is not None else f"{low:g} up"
        direction = {True: "higher is better", False: "lower is better", None: "neither end is better"}
        return f"{self.unit}, {span}, {direction[self.higher_is_better]}, version {self.version}"


HERE = "Defined here"
VOC = "Everingham et al., The PASCAL VOC Challenge, IJCV 2010"
REFCOCO = "Yu et al., Modeling Context in Referring Expressions, ECCV 2016 (arXiv:1608.00272)"
POINTING = "After the pointing game: Zhang et al., Excitation Backprop, ECCV 2016 (arXiv:1608.00507)"
GROMA = "Ma et al., Groma, ECCV 2024 (arXiv:2404.13013), appendix B"
COCO = "Lin et al., Microsoft COCO, ECCV 2014 (arXiv:1405.0312)"
LVIS = "Gupta et al., LVIS, CVPR 2019 (arXiv:1908.03195)"
VEDANTAM = "Vedantam et al., CIDEr, CVPR 2015 (arXiv:1411.5726)"
CIDER = f"{VEDANTAM}, CIDEr-D as in coco-caption (arXiv:1504.00325)"
METEOR = "Denkowski and Lavie, Meteor Universal, WMT 2014"
BLEU = "Papineni et al., BLEU, ACL 2002"
ROUGE = "Lin, ROUGE, ACL workshop 2004"
SQUAD = "Rajpurkar et al., SQuAD, EMNLP 2016 (arXiv:1606.05250)"
POPE = "Li et al., POPE, EMNLP 2023 (arXiv:2305.10355)"
LLAVA = "Liu et al., LLaVA, NeurIPS 2023 (arXiv:2304.08485)"

_OVER = "mean over categories, IoU .50:.05:.95"
_SIZES = {"s": "below 32^2 pixels", "m": "of 32^2 to 96^2 pixels", "l": "of 96^2 pixels and more"}
_FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}

_REC = {
    "acc@T": MetricInfo("expressions whose judged box reaches IoU T by the card's rule (>= or >)", REFCOCO),
    "acc@T_strict": MetricInfo("the same with IoU > T, whatever the rule", REFCOCO),
    "acc@T_loose": MetricInfo("the same with IoU >= T, beside the rule >", REFCOCO),
    "miou": MetricInfo("mean IoU of the judged box and the true one, 0 for no box", VOC),
    "centre_acc": MetricInfo("expressions whose judged box has its centre in the true box, edge included", POINTING),
    "acc@T/GROUP": MetricInfo("acc@T of the expressions of one group", REFCOCO),
    "not_proposed": MetricInfo("expressions missed with no region proposal of IoU 0.5", HERE, higher_is_better=False),
    "not_selected": MetricInfo(
        "expressions missed although a region proposal reaches IoU 0.5", HERE, higher_is_better=False
    ),
}
_GROUNDING = {
    "ar": MetricInfo(
        f"recall of the k surest boxes of a query with k true boxes, {_OVER} (rule metric: lvis: LVIS's AR@300 of all "
        "boxes instead, here and in the names below)",
        GROMA,
    ),
    "ar@T": MetricInfo("the same at IoU T alone", GROMA),
    **{f"ar_{size}": MetricInfo(f"the same of true boxes {text}", GROMA) for size, text in _SIZES.items()},
    "ar_micro": MetricInfo("the same over all true boxes at once", GROMA),
    **{f"ar/{key}": MetricInfo(f"the same over {name} categories", GROMA) for key, name in _FREQUENCIES.items()},
    "recall@T": MetricInfo("true boxes that some answered box finds at IoU T, one to one", VOC),
    "precision@T": MetricInfo("answered boxes that find a true box at IoU T, one to one", VOC),
    "f1@T": MetricInfo("harmonic mean of precision and recall at IoU T", VOC),
    "ap": MetricInfo(f"average precision of what was asked, ranked by confidence, {_OVER}", LVIS),
    "ap50": MetricInfo("the same at IoU 0.5 alone", LVIS),
    "not_proposed": MetricInfo("true boxes missed with no region proposal of IoU 0.5", HERE, higher_is_better=False),
    "not_selected": MetricInfo(
        "true boxes missed although a region proposal reaches IoU 0.5", HERE, higher_is_better=False
    ),
}
_CAPTION = {
    "cider": MetricInfo(
        "TF-IDF similarity of 1- to 4-grams to the references, clipped, with a penalty for other lengths",
        CIDER,
        "x 100",
        (0, 1000),
    ),
    "meteor": MetricInfo(
        "METEOR 1.5: alignment of words, stems, synonyms and paraphrases with the best reference (without METEOR's "
        "data files of words and stems alone, which is marked)",
        METEOR,
        "x 100",
    ),
    **{
        f"bleu_{n}": MetricInfo(f"precision of 1- to {n}-grams of the corpus, penalised for brevity", BLEU, "x 100")
        for n in range(1, 5)
    },
    "rouge_l": MetricInfo("F-measure of the longest common subsequence with the references", ROUGE, "x 100"),
    "attr/NAME": MetricInfo("captions that name the region's NAME, and no other value of it", HERE),
    "phrase_precision": MetricInfo("phrase-box pairs answered that are right: same content words, IoU 0.5", HERE),
    "phrase_recall": MetricInfo("true phrase-box pairs that are answered", HERE),
    "phrase_f1": MetricInfo("harmonic mean of phrase_precision and phrase_recall", HERE),
}
_VQA = {
    "accuracy": MetricInfo(
        "questions answered right (of an answer with known facts the share it names; rule match: yesno: as POPE reads "
        "yes and no)",
        HERE,
    ),
    "accuracy/GROUP": MetricInfo("accuracy of the questions of one group", HERE),
    "f1": MetricInfo("mean overlap of words with the known answer; rule match: yesno: F1 of yes", f"{SQUAD}; {POPE}"),
    "precision": MetricInfo("answers of yes that are right", POPE),
    "recall": MetricInfo("questions to be answered by yes that are", POPE),
    "yes_ratio": MetricInfo("questions answered by yes; best where it equals the labels'", POPE, higher_is_better=None),
    "score/overall": MetricInfo(
        "mean score by the judge over the mean score of the reference answers, all questions", LLAVA, range=(0, None)
    ),
    "score/GROUP": MetricInfo("the same of one category", LLAVA, range=(0, None)),
    "reference_mean": MetricInfo("mean score of the reference answers by the judge", LLAVA, "x 10", (10, 100), None),
    "model_mean": MetricInfo("mean score of the model's answers by the judge", LLAVA, "x 10", (10, 100)),
    "answer_words": MetricInfo("mean length of an answer", HERE, "words", (0, None), None),
}
_PROPOSALS = {
    "ap": MetricInfo("average precision of the 100 best proposals, one class, IoU .50:.05:.95", COCO),
    "ap50": MetricInfo("the same at IoU 0.5 alone", COCO),
    "ap75": MetricInfo("the same at IoU 0.75 alone", COCO),
    "ar@K": MetricInfo("recall of the K best proposals of an image, IoU .50:.05:.95", COCO),
    **{f"ar_{size}": MetricInfo(f"ar@300 of true boxes {text}", COCO) for size, text in _SIZES.items()},
    "ar50": MetricInfo("recall of the 300 best proposals at IoU 0.5", COCO),
}


def _share(definition: str, citation: str) -> MetricInfo:
    return MetricInfo(definition, citation, "share", (0, 1))


_BOTH = f"{COCO}; {LVIS}"
_SCORE_DETECTION = {
    "AP": _share(f"average precision, {_OVER}", _BOTH),
    "AP50": _share("the same at IoU 0.5 alone", _BOTH),
    "AP75": _share("the same at IoU 0.75 alone", _BOTH),
    **{f"AP{size}": _share(f"the same of true boxes {text}", _BOTH) for size, text in _SIZES.items()},
    **{f"AP{key}": _share(f"the same over {name} categories", LVIS) for key, name in _FREQUENCIES.items()},
    **{f"AR{k}": _share(f"coco: recall with {k} detections of an image and category", COCO) for k in (1, 10, 100)},
    "AR@K": _share("lvis: recall with K detections an image", LVIS),
    **{f"AR{size}@K": _share(f"the same of true boxes {text}", LVIS) for size, text in _SIZES.items()},
    "AR": _share(f"as-many: recall of the k surest boxes where k are true, {_OVER}", GROMA),
    "AR50": _share("lvis, as-many: recall at IoU 0.5 alone", f"{LVIS}; {GROMA}"),
    "AR75": _share("lvis, as-many: recall at IoU 0.75 alone", f"{LVIS}; {GROMA}"),
    **{
        f"AR{size}": _share(f"coco, as-many: recall of true boxes {t}", f"{COCO}; {GROMA}")
        for size, t in _SIZES.items()
    },
    **{f"AR{key}": _share(f"as-many: recall over {name} categories", GROMA) for key, name in _FREQUENCIES.items()},
    "AR_micro": _share("as-many: recall over all true boxes at once", GROMA),
}
_SCORE_CAPTION = {
    **{f"BLEU_{n}": _share(_CAPTION[f"bleu_{n}"].definition, BLEU) for n in range(1, 5)},
    "METEOR": _share(_CAPTION["meteor"].definition, METEOR),
    "ROUGE_L": _share(_CAPTION["rouge_l"].definition, ROUGE),
    "CIDEr": MetricInfo(_CAPTION["cider"].definition, CIDER, "x 10", (0, 10)),
    "CIDEr-original": MetricInfo("the same without clipping and length penalty", VEDANTAM, "x 10", (0, 10)),
}
_SCORE_YESNO = {
    "accuracy": _share("questions answered right, yes and no read as LLaVA's evaluation reads them", POPE),
    "precision": _share(_VQA["precision"].definition, POPE),
    "recall": _share(_VQA["recall"].definition, POPE),
    "f1": _share("harmonic mean of precision and recall", POPE),
    "yes_ratio": MetricInfo(_VQA["yes_ratio"].definition, POPE, "share", (0, 1), None),
}
_SCORE_REVIEWS = {
    "CATEGORY/reference": _VQA["reference_mean"],
    "CATEGORY/model": _VQA["model_mean"],
    "CATEGORY": MetricInfo(
        "mean score of the answers over that of the references; all: every review", LLAVA, range=(0, None)
    ),
}

METRICS: dict[str, dict[str, MetricInfo]] = {
    "rec": _REC,
    "grounding": _GROUNDING,
    "caption": _CAPTION,
    "vqa": _VQA,
    "proposals": _PROPOSALS,
    "score detection": _SCORE_DETECTION,
    "score caption": _SCORE_CAPTION,
    "score yesno": _SCORE_YESNO,
    "score reviews": _SCORE_REVIEWS,
}


def find(task: str, metric: str) -> MetricInfo | None:
    """What ``metric`` of ``task`` means, None where nothing is known of it."""
    known = METRICS.get(task, {})
    return known.get(metric) or next((info for name, info in known.items() if _pattern(name).fullmatch(metric)), None)


def _pattern(name: str) -> re.Pattern[str]:
    # T and K are numbers after @; GROUP, NAME and CATEGORY are any names.
    return re.compile(re.sub(r"(?<=/)(GROUP|NAME)$|^CATEGORY", ".+", re.sub(r"@[TK]", r"@[\\d.]+", name)))
