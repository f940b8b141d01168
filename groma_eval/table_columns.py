"""What stands in which column: the paper's column sets, and those of any other benchmark of a task.

A grid is one printed table. The benchmarks of the paper's own tables share a grid with the published rows; every other
benchmark family has a grid to itself, because its numbers compare with nothing published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from groma_eval.metrics.about import find

KINDS = ("rec", "grounding", "caption", "vqa", "proposals")

TITLES = {
    "rec": "Referring expression comprehension, accuracy (%)",
    "grounding": "Grounding every instance, average recall (%)",
    "caption": "Captioning",
    "vqa": "Question answering (%)",
    "proposals": "Class-agnostic region proposals (%)",
}

# Groma's tables print two digits for REC and one elsewhere.
DIGITS = {"rec": 2}


@dataclass(frozen=True)
class Column:
    """One column. ``group`` is the upper head, ``head`` the lower one.

    ``metric`` is a key of metrics.json, looked up in the benchmark of this ``family`` and ``split``; a column with
    ``average_of`` is the mean of the printed cells of those columns (indices into the grid) instead, and one with
    ``count`` the sum of that count over all the grid's benchmarks. ``published`` is the metric's name in the baselines.
    ``note`` says how the numbers of runs without the count ``unless`` differ from others of the same name: they are
    marked with it, and not ranked beside those.
    ``better`` is 1 where larger is better and 0 where the column is not ranked.
    """

    group: str
    head: str
    family: str = ""
    split: str = ""
    metric: str = ""
    digits: int = 1
    better: int = 1
    published: str = ""
    average_of: tuple[int, ...] = ()
    count: str = ""
    note: str = ""
    unless: str = ""


@dataclass(frozen=True)
class PaperSet:
    """A table of the paper: where its published rows are, its columns, the head of its average (or ""), what is known
    of its test pictures and the published rows' training (``pictures``), and the card's name for its protocol."""

    baselines: str
    title: str
    columns: tuple[Column, ...]
    average: str = ""
    pictures: str = ""
    protocol: str = "paper"


#: METEOR's synonyms and paraphrases need its own data files; a run says in its counts that it had them.
_METEOR = {
    "note": "METEOR of exact and stem matches alone, without synonyms and paraphrases (METEOR's data files were not "
    "there): lower than published METEOR, and not comparable with it",
    "unless": "full_meteor",
}
_NOTES: dict[str, dict[str, str]] = {"meteor": _METEOR}


def _paper(family: str, split: str, metric: str, published: str, head: str, digits: int, group: str = "") -> Column:
    return Column(group or family, head, family, split, metric, digits, 1, published, **_NOTES.get(metric, {}))


_UNSTATED = "; the training pictures of published rows are not stated one by one, so what they saw is unknown"

_REC_SPLITS = (
    ("RefCOCO", ("val", "testA", "testB")),
    ("RefCOCO+", ("val", "testA", "testB")),
    ("RefCOCOg", ("val", "test")),
)
_AR = (("ar", "AR"), ("ar@0.5", "AR@0.5"), ("ar@0.75", "AR@0.75"), ("ar_s", "AR@s"), ("ar_m", "AR@m"), ("ar_l", "AR@l"))
_BENCH = (("conversation", "Conversation"), ("detail", "Detail description"), ("reasoning", "Complex reasoning"))

PAPER: dict[str, PaperSet] = {
    "rec": PaperSet(
        "rec",
        "Referring expression comprehension, accuracy at IoU 0.5 (%)",
        tuple(_paper(f, s, "acc@0.5", "Acc@IoU0.5", s, 2) for f, splits in _REC_SPLITS for s in splits),
        "Average",
        "The test pictures are of COCO's training set, and COCO is among Groma's training data" + _UNSTATED,
    ),
    "grounding": PaperSet(
        "lvis_ground",
        "LVIS-Ground, average recall (%)",
        tuple(_paper("LVIS-Ground", "val", key, head, head, 1) for key, head in _AR),
        pictures="LVIS validation holds pictures of COCO's training set, and COCO is among Groma's training data"
        + _UNSTATED,
        protocol="as-many",
    ),
    "caption": PaperSet(
        "region_caption",
        "Region captioning",
        tuple(
            _paper(f, s, key, head, head, 1, f"{f} {s}")
            for f, s in (("RefCOCOg", "val"), ("Visual Genome", "test"))
            for key, head in (("meteor", "METEOR"), ("cider", "CIDEr"))
        ),
        pictures="RefCOCOg's pictures are of COCO's training set and about half of Visual Genome's are of COCO; COCO "
        "and Visual Genome are among Groma's training data" + _UNSTATED,
    ),
    "vqa": PaperSet(
        "llava_bench",
        "LLaVA-Bench (COCO), score relative to the text-only reference (%)",
        tuple(
            _paper("LLaVA-Bench (COCO)", "COCO val2014", f"score/{key}", head, head, 1)
            for key, head in (*_BENCH, ("overall", "Overall"))
        ),
        pictures="The test pictures are of COCO val2014, most of which the 2017 release puts in its training set, and "
        "COCO is among Groma's training data" + _UNSTATED,
    ),
}

# Sections of a benchmark outside the paper's tables: (upper head, ((metric, head), ...)). Only metrics that a run has
# become columns, so one list serves plain and attributed captions, known, yes/no and judged answers alike.
_SECTIONS: dict[str, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = {
    "rec": (("", (("acc@0.5", "all"),)), ("boxes", (("miou", "mean IoU"),))),
    "grounding": (
        ("", (*_AR, ("ar_micro", "AR micro"))),
        ("by frequency", (("ar/r", "AR@r"), ("ar/c", "AR@c"), ("ar/f", "AR@f"))),
        (
            "all boxes",
            (("precision@0.5", "P@0.5"), ("recall@0.5", "R@0.5"), ("f1@0.5", "F1@0.5"), ("ap", "AP"), ("ap50", "AP50")),
        ),
    ),
    "caption": (
        ("", (("meteor", "METEOR"), ("cider", "CIDEr"), ("bleu_4", "BLEU-4"), ("rouge_l", "ROUGE-L"))),
        ("attributes named", tuple((f"attr/{a}", a) for a in ("shape", "colour", "size", "pattern", "location"))),
        ("phrases", (("phrase_f1", "F1"), ("phrase_precision", "P"), ("phrase_recall", "R"))),
    ),
    "vqa": (
        ("", (("accuracy", "all"), ("f1", "F1"))),
        ("yes", (("precision", "P"), ("recall", "R"), ("yes_ratio", "yes ratio"))),
        ("by type", tuple((f"accuracy/{t}", t) for t in ("attribute", "existence", "counting", "relation"))),
        ("by form", tuple((f"accuracy/{f}", f) for f in ("conversation", "detail", "reasoning"))),
        ("judged", tuple((f"score/{key}", head) for key, head in (*_BENCH, ("overall", "Overall")))),
    ),
    "proposals": (
        ("", (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75"))),
        ("", tuple((f"ar@{n}", f"AR@{n}") for n in (1, 10, 100, 300))),
        ("by area", (("ar_s", "AR@s"), ("ar_m", "AR@m"), ("ar_l", "AR@l"))),
        ("", (("ar50", "R@0.5"),)),
    ),
}
# Metrics a benchmark splits into groups of its own naming: {kind: (prefix, index of the section they join)}.
_GROUPS = {"rec": ("acc@0.5/", 0), "vqa": ("accuracy/", 2)}

ERRORS = (("not_proposed", "not proposed"), ("not_selected", "not selected"))
ERROR_HEAD = dict.fromkeys(KINDS, "errors (%)") | {
    "rec": "errors (% of expressions)",
    "grounding": "errors (% of targets)",
}
COUNTS = ("unparsed", "missing", "failed")


def plain_columns(kind: str, family: str, split: str, metrics: Iterable[str], alone: bool) -> list[Column]:
    """Columns of one benchmark outside the paper's tables, for those ``metrics`` that some run has.

    Unless it stands ``alone`` in its grid, its split is in every upper head.
    """
    group = family if alone else f"{family} {split}"
    have = list(dict.fromkeys(metrics))
    digits = DIGITS.get(kind, 1)
    sections = [(head, list(items)) for head, items in _SECTIONS[kind]]
    if kind in _GROUPS:
        prefix, at = _GROUPS[kind]
        known = {metric for _, items in sections for metric, _ in items}
        sections[at][1].extend((m, m[len(prefix) :]) for m in have if m.startswith(prefix) and m not in known)
    columns = []
    for head, items in sections:
        upper = (head if alone else f"{group}: {head}") if head else group
        columns += [
            Column(upper, text, family, split, m, digits, _better(kind, m), **_NOTES.get(m, {}))
            for m, text in items
            if m in have
        ]
    errors = ERROR_HEAD[kind] if alone else f"{group}: {ERROR_HEAD[kind]}"
    return columns + error_columns(kind, errors, family, split, have)


def _better(kind: str, metric: str) -> int:
    info = find(kind, metric)
    return int(info is None or bool(info.higher_is_better))


def paper_protocol(kind: str, place: tuple[str, str]) -> str:
    """The card's name for the protocol that the paper's numbers of this family and split were obtained under."""
    paper = PAPER.get(kind)
    return paper.protocol if paper and any((c.family, c.split) == place for c in paper.columns) else "paper"


def further_columns(kind: str, family: str, split: str, metrics: Iterable[str]) -> list[Column]:
    """Columns of a benchmark of the paper's table for what that table has not, errors apart. None for REC, whose eight
    splits would fill a page."""
    if kind == "rec":
        return []
    shown = {(c.family, c.split, c.metric) for c in PAPER[kind].columns} | {(family, split, m) for m, _ in ERRORS}
    columns = plain_columns(kind, family, split, metrics, alone=False)
    return [column for column in columns if (family, split, column.metric) not in shown]


def error_columns(kind: str, group: str, family: str, split: str, metrics: Iterable[str]) -> list[Column]:
    """The two ways a box goes wrong, in percent of the questions; not ranked, as neither is good without the other."""
    have = set(metrics)
    digits = DIGITS.get(kind, 1)
    return [Column(group, head, family, split, m, digits, 0) for m, head in ERRORS if m in have]


def merge_heads(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Upper heads with the number of adjacent columns under each."""
    spans: list[tuple[str, int]] = []
    for column in columns:
        if spans and spans[-1][0] == column.group:
            spans[-1] = (column.group, spans[-1][1] + 1)
        else:
            spans.append((column.group, 1))
    return spans
