"""Mixtures: which share of which sets an epoch sees, in which order. A YAML file ::

    exclude: excluded.txt            # optional; what groma-train data check --exclude writes
    sets:
      - reader: rec                  # a name of READERS
        annotations: groma_data/refcoco_train.json
        images: coco/train2017
        collection: coco             # optional: whose pictures they are, where the paths do not tell
        ratio: 0.5                   # optional: the share of the set that an epoch draws (1)
        missing: 0.02                # optional: the share of pictures that may be missing (0.01)
        options: {}                  # optional: the reader's

Paths are relative to ``root`` or, where none is given, to the file. A bare list of sets is a mixture too.

**Order.** Each set has one shuffled order, from the seed; epoch after epoch takes the next ``round(ratio * n)`` of it,
so that no sample comes twice before all came once. An epoch shuffles what its sets gave by seed and epoch. Every sample
is thus a function of (seed, epoch, place), whoever asks for it: processes share the places of a step among them, and a
resumed training asks for those that are left.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from groma_model.data.permutation import Permutation
from groma_model.data.readers import READERS, to_sample
from groma_model.data.samples import TrainingImage
from groma_model.data.store import Store, open_store
from groma_model.processing import PromptTemplate

#: Share of a set's pictures that may be missing unless the mixture says otherwise.
MISSING = 0.01
_FIELDS = {"reader": str, "annotations": str, "images": str, "collection": str, "ratio": (int, float),
           "missing": (int, float), "options": dict}  # fmt: skip


@dataclass(frozen=True)
class MixtureSet:
    """One set of a mixture; see the module's description."""

    reader: str
    annotations: Path
    images: Path
    collection: str | None = None
    ratio: float = 1.0
    missing: float = MISSING
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.reader}:{self.annotations.name}"


@dataclass(frozen=True)
class MixtureFile:
    """What a mixture's YAML file says."""

    path: Path
    sets: tuple[MixtureSet, ...]
    exclude: Path | None = None


def load_mixture(path: str | Path, root: str | Path | None = None) -> MixtureFile:
    """Read and check a mixture's file; no data is read.

    Raises:
        ValueError: naming file, set and field.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"mixture {path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"mixture {path} is not YAML: {' '.join(str(error).split())[:120]}") from None
    base = path.parent if root is None else Path(root)
    raw = {"sets": raw} if isinstance(raw, list) else raw
    if not isinstance(raw, dict) or not isinstance(raw.get("sets"), list) or not raw["sets"]:
        raise ValueError(f"mixture {path}: must hold 'sets', a list of data sets")
    if unknown := raw.keys() - {"sets", "exclude"}:
        raise ValueError(f"mixture {path}: unknown field '{min(map(str, unknown))}'; there are sets and exclude")
    exclude = raw.get("exclude")
    if exclude is not None and not isinstance(exclude, str):
        raise ValueError(f"mixture {path}: field 'exclude' must be a file, not {exclude!r}")
    sets = tuple(_set(f"mixture {path}: sets[{i}]", entry, base) for i, entry in enumerate(raw["sets"]))
    return MixtureFile(path, sets, base / exclude if exclude else None)


def _set(where: str, raw: Any, base: Path) -> MixtureSet:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} must be a mapping with reader, annotations and images, not {raw!r}")
    for key, value in raw.items():
        if key not in _FIELDS:
            close = difflib.get_close_matches(str(key), _FIELDS, 1)
            raise ValueError(f"{where}: unknown field '{key}'" + (f" (did you mean '{close[0]}'?)" if close else ""))
        if not isinstance(value, _FIELDS[key]) or isinstance(value, bool):
            raise ValueError(f"{where}: field '{key}' is {value!r}, which it cannot be")
    for key in ("reader", "annotations", "images"):
        if key not in raw:
            raise ValueError(f"{where}: field '{key}' is missing")
    if raw["reader"] not in READERS:
        raise ValueError(f"{where}: reader '{raw['reader']}' is none of {', '.join(READERS)}")
    # A share above 1 would repeat samples within an epoch: name the set twice for that.
    if not 0 < raw.get("ratio", 1) <= 1:
        raise ValueError(f"{where}: ratio is {raw['ratio']}; it must be above 0 and at most 1")
    if not 0 <= raw.get("missing", 0) <= 1:
        raise ValueError(f"{where}: missing is {raw['missing']}; it must be a share from 0 to 1")
    options = dict(raw.get("options", {}))
    known = READERS[raw["reader"]].options
    for key, value in options.items():
        if key not in known:
            raise ValueError(
                f"{where}: reader {raw['reader']} has no option '{key}'; it has {', '.join(known) or 'none'}"
            )
        allowed = known[key]
        if not isinstance(value, str) or (allowed is not None and value not in allowed):
            wanted = "a file" if allowed is None else f"one of {', '.join(allowed)}"
            raise ValueError(f"{where}: option {key} is {value!r}; it must be {wanted}")
        if allowed is None:
            options[key] = str(base / value)
    return MixtureSet(
        raw["reader"], base / raw["annotations"], base / raw["images"], raw.get("collection"),
        float(raw.get("ratio", 1)), float(raw.get("missing", MISSING)), options,
    )  # fmt: skip


def read_exclusions(path: Path) -> frozenset[tuple[str, str]]:
    """Pairs (collection, id), one ``collection id`` a line; ``#`` begins a comment. Raises ValueError with the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the list of excluded pictures cannot be read ({error})") from None
    pairs = set()
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if words and len(words) != 2:
            raise ValueError(
                f"{path}: line {number}: must be 'collection id' (such as: coco 139), not {line.strip()!r}"
            )
        if words:
            pairs.add((words[0], words[1]))
    return frozenset(pairs)


def open_stores(
    mixture: MixtureFile,
    cache: Path | None = None,
    rebuild: bool = False,
    exclude: frozenset[tuple[str, str]] = frozenset(),
) -> list[Store]:
    """The records of each set, made first where they are not in the cache.

    ``exclude``: pictures (collection, id) to leave out besides those that the mixture excludes.

    Raises:
        ValueError: a file that does not read, an empty set, or one of which more pictures are missing than it allows.
    """
    exclude |= read_exclusions(mixture.exclude) if mixture.exclude else frozenset()
    stores = []
    for one in mixture.sets:
        again = rebuild
        while True:
            store = open_store(
                one.reader, one.annotations, one.images, one.options, one.collection, exclude, cache, again
            )
            if store.missing <= one.missing:
                break
            if again or rebuild:
                raise ValueError(missing_line(one, store))
            again = True  # pictures may have come since the store was made
        if not len(store):
            raise ValueError(f"{one.annotations}: no sample is left of this set ({_counts(store)})")
        stores.append(store)
    return stores


def missing_line(one: MixtureSet, store: Store) -> str:
    """What is wrong with a set of which more pictures are missing than it allows."""
    absent = store.counts["missing_picture"]
    return (
        f"{one.annotations}: {absent} of {absent + len(store)} samples ({store.missing:.1%}) lack their picture below "
        f"{one.images}, such as {store.example}; the limit is {one.missing:.1%} (field 'missing')"
    )


def _counts(store: Store) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(store.counts.items())) or "it is empty"


class Mixture(Sequence[TrainingImage]):
    """The samples of a mixture. As a plain sequence it is the first epoch, in its (shuffled) order."""

    def __init__(
        self,
        mixture: MixtureFile,
        template: PromptTemplate,
        seed: int = 0,
        cache: Path | None = None,
        exclude: frozenset[tuple[str, str]] = frozenset(),
    ):
        """``exclude``: see :func:`open_stores`. Raises ValueError as it does."""
        self.path, self.sets, self.template, self.seed = mixture.path, mixture.sets, template, seed
        self.stores = open_stores(mixture, cache, exclude=exclude)
        #: Samples that each set gives an epoch.
        self.shares = [max(1, round(s.ratio * len(store))) for s, store in zip(self.sets, self.stores, strict=True)]
        self._ends = list(accumulate(self.shares))
        self._orders = [Permutation(len(store), f"{seed}/set/{i}") for i, store in enumerate(self.stores)]
        self._epoch: tuple[int, Permutation] = (0, self._shuffled(0))

    def _shuffled(self, epoch: int) -> Permutation:
        return Permutation(self._ends[-1], f"{self.seed}/epoch/{epoch}")

    def __len__(self) -> int:
        """Samples an epoch; the same for every epoch."""
        return self._ends[-1]

    def place(self, epoch: int, index: int) -> tuple[int, int]:
        """(set, record) of sample ``index`` of an epoch. Raises IndexError outside ``range(len(self))``."""
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        position = self._epoch[1][index]
        number = bisect_right(self._ends, position)
        within = position - (self._ends[number - 1] if number else 0)
        order = self._orders[number]
        return number, order[(epoch * self.shares[number] + within) % len(order)]

    def sample(self, epoch: int, index: int) -> TrainingImage:
        """Sample ``index`` of an epoch; its instruction and what else is drawn depend on seed, epoch and record."""
        number, record = self.place(epoch, index)
        one = self.sets[number]
        draw = random.Random(f"{self.seed}/{epoch}/{number}/{record}")
        return to_sample(self.stores[number][record], READERS[one.reader], one.options, one.images, self.template, draw)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.sample(0, i) for i in range(*index.indices(len(self)))]
        return self.sample(0, index + len(self) if index < 0 else index)

    def __iter__(self) -> Iterator[TrainingImage]:
        return (self.sample(0, i) for i in range(len(self)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The dialogues' keys that the mixture's samples have."""
        return tasks(self.sets)

    def sources(self) -> set[str | None]:
        """Whose objectness heads the boxes train, of the sets that are boxes alone."""
        return {s.options.get("source", "coco") for s in self.sets if READERS[s.reader].task is None}

    def attribute_values(self) -> dict[str, list[str]]:
        """No set has annotated attributes."""
        return {}

    def fingerprint(self) -> str:
        """A digest of the samples and of what their order depends on: with another one, a run would see others."""
        parts = [
            [s.reader, store.digest, share, {k: v for k, v in s.options.items() if READERS[s.reader].options[k]}]
            for s, store, share in zip(self.sets, self.stores, self.shares, strict=True)
        ]
        return hashlib.sha256(json.dumps([self.seed, parts], sort_keys=True).encode()).hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """What a run keeps of its data: the fingerprint and, for each set, its samples and what was left out."""
        sets = [
            {"name": s.name, "samples": len(store), "an_epoch": share, "left_out": store.counts}
            for s, store, share in zip(self.sets, self.stores, self.shares, strict=True)
        ]
        return {"mixture": self.path.name, "fingerprint": self.fingerprint(), "an_epoch": len(self), "sets": sets}


def tasks(sets: Sequence[MixtureSet]) -> tuple[str, ...]:
    """The dialogues' keys that the samples of these sets have."""
    return tuple(dict.fromkeys(t for s in sets if (t := READERS[s.reader].task)))


def check_stage(path: Path, sets: Sequence[MixtureSet], stage: str, counts: Mapping[str, int]) -> None:
    """Whether a stage can train on a mixture: ``detect`` on boxes alone, the others on dialogues alone.

    ``counts`` are the recipe's ``tasks``.

    Raises:
        ValueError: naming the set, or the task that the recipe gives no count.
    """
    for one in sets:
        task = READERS[one.reader].task
        if (task is None) != (stage == "detect"):
            what = "has no dialogues" if task is None else "has no boxes of every object"
            takes = "the reader detection" if stage == "detect" else "readers of dialogues"
            raise ValueError(f"mixture {path}: the set {one.name} {what}: stage {stage} takes {takes} alone")
        if task is not None and not counts.get(task):
            raise ValueError(
                f"the recipe's tasks have no count for '{task}', which the set {one.name} of mixture {path} holds: "
                f"add {task}: 1"
            )
