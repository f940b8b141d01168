"""``groma-eval data list|check|prepare``: what benchmarks need, whether it is there and right, and how to get it."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.core import HarnessError, Sample

if TYPE_CHECKING:
    from groma_eval.cards import Card

ABOUT = "list, check or prepare the data of benchmarks"
#: Beside a card: the checksums of its annotation files, in the form of ``sha256sum``, paths from the data root.
CHECKSUMS = "sha256sums.txt"
_NAMED = 3  # pictures that are named where some are missing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, about: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        sub.add_argument("--data-root", metavar="DIR", help="where data is (default: $GROMA_DATA, else ./data)")
        sub.add_argument(
            "--benchmarks-dir", metavar="DIR", help="folder of your own cards (default: $GROMA_BENCHMARKS)"
        )
        return sub

    action("list", "what each benchmark needs, where it is looked for, and whether it is there")
    check = action(
        "check", "read a benchmark's data: files, counts, duplicate ids, pictures; exit 1 if anything is wrong"
    )
    check.add_argument("name", help="benchmarks or suites, separated by commas; see: groma-eval list benchmarks")
    check.add_argument("--annotations", metavar="FILE", help="annotations in place of the card's, or a folder of them")
    check.add_argument("--images", metavar="DIR", help="pictures in place of the card's folder")
    prepare = action("prepare", "make or download a benchmark's annotation files")
    prepare.add_argument("name", help="a benchmark, or the folder of several (refcoco, shapes)")
    add = prepare.add_argument
    add("--source", type=Path, metavar="PATH", help="file or folder to make them from (default: download them)")
    add("--seed", type=int, help="of whatever is drawn at random (default: the preparation's own)")
    add("--overwrite", action="store_true", default=None, help="replace files that are there with other content")
    add("--splits", metavar="NAME=N,...", help="shapes: images a split, such as train=1000,val=100,test=320")
    add("--workers", type=int, help="shapes: processes (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Do the action; returns 0, or 1 where a check found something missing or wrong."""
    if args.action == "list":
        return _list(args)
    if args.action == "check":
        return _check(args)
    prepare_data(
        args.name,
        args.data_root,
        folder=args.benchmarks_dir,
        source=args.source,
        seed=args.seed,
        overwrite=args.overwrite,
        splits=_splits(args.splits) if args.splits else None,
        workers=args.workers,
    )
    return 0


def _splits(text: str) -> dict[str, int]:
    splits = {}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if not count.isdigit() or not int(count):
            raise HarnessError(f"--splits {part}: must be NAME=N, N a number of images above 0")
        splits[name.strip()] = int(count)
    return splits


def prepare_data(name: str, root: str | Path | None = None, folder: str | Path | None = None, **options: Any) -> Path:
    """Call the data preparation of benchmark (or folder of benchmarks) ``name``; options that are None are left out.

    ``folder`` holds further cards. Returns the data root.

    Raises:
        HarnessError: an unknown name, a benchmark whose data must be fetched by hand, an option that its preparation
            does not have, or whatever the preparation finds wrong.
    """
    from groma_eval.cards import registry
    from groma_eval.jobs import default_data_root

    cards = registry(folder)
    makers = sorted({card.prepare for card in cards.values() if card.prepare})
    maker = cards[name].prepare if name in cards else name
    if maker not in makers:
        reason = "has no data preparation" if name in cards else "is no benchmark"
        raise HarnessError(f"data prepare {name}: {name} {reason}; there is one for: {', '.join(makers) or 'none'}")
    place = default_data_root(root)
    module = importlib.import_module(f"groma_eval.benchmarks.{maker}.prepare")
    known = inspect.signature(module.prepare).parameters
    given = {key: value for key, value in options.items() if value is not None}
    for key in given.keys() - known.keys():
        raise HarnessError(f"data prepare {name}: --{key} is not for {maker}")
    if (source := given.get("source")) is not None and not Path(source).exists():
        raise HarnessError(f"--source {source}: no such file or folder")
    if "cards" in known:
        given["cards"] = [cards[name]] if name in cards else [card for card in cards.values() if card.prepare == maker]
    written = module.prepare(place, **given)
    for path in written if isinstance(written, list) else []:
        print(f"{path}: sha256 {_sha256(path)}")
    print(f"the data of {name} is in {place}")
    return place


def _list(args: argparse.Namespace) -> int:
    from groma_eval.cards import registry
    from groma_eval.jobs import default_data_root

    cards = registry(args.benchmarks_dir)
    root = default_data_root(args.data_root)
    print(f"looked for below {root} (--data-root, else $GROMA_DATA, else ./data)")
    width = max((len(name) for name in cards), default=0)
    for card in cards.values():
        places = sorted(card.data.items(), key=lambda item: item[0] != "annotations")
        missing = [key for key, place in places if not (root / place).exists()]
        state = "present" if not missing else "no pictures" if missing == ["images"] else "missing"
        files = ", ".join(f"{key} {place}{' (missing)' if key in missing else ''}" for key, place in places)
        mend = f"; groma-eval data prepare {card.name}" if card.prepare and "annotations" in missing else ""
        print(f"{card.name:<{width}}  {state:<11}  {files}{mend}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from groma_eval.cards import select
    from groma_eval.jobs import default_data_root, places

    cards = select(args.name, args.benchmarks_dir)
    root = default_data_root(args.data_root)
    wrong = []
    for card in cards:
        where = places(card, root, args.annotations, args.images, several=len(cards) > 1)
        print(card.name)
        lines, problems = check_card(card, root, *where)
        for line in lines:
            print(f"  {line}")
        for problem in problems:
            print(f"  wrong: {' '.join(problem.split())}")
        if problems:
            wrong.append(card.name)
        else:
            print("  all is there")
    if wrong:
        print(f"{len(wrong)} of {len(cards)} benchmarks lack something: {', '.join(wrong)}")
    return int(bool(wrong))


def check_card(
    card: Card, root: Path, annotations: Path | None = None, images: Path | None = None
) -> tuple[list[str], list[str]]:
    """Read all that ``card`` needs below ``root`` (or the annotations and pictures given).

    Returns:
        (what was found, what is missing or wrong), as lines.
    """
    from groma_eval.jobs import read_benchmark

    lines: list[str] = []
    problems: list[str] = []
    folder = images or (root / card.data["images"] if "images" in card.data else None)
    if folder is not None and not folder.is_dir():
        problems.append(f"{folder}: no such folder of images")
        folder = None
    try:
        samples = read_benchmark(card, root, folder is not None, annotations, folder)
        lines += _checksum_lines(card, root, annotations)
    except HarnessError as error:
        return lines, [*problems, str(error)]
    found = {"questions": sum(len(sample.questions) for sample in samples), "images": len(samples)}
    for key, count in found.items():
        wanted = card.counts.get(key)
        lines.append(f"{key} {count}" + ("" if wanted is None else f" (the card says {wanted})"))
        if wanted not in (None, count):
            problems.append(f"{count} {key}, the card says {wanted}: another file or another split")
    if folder is not None:
        missing = _missing(samples)
        lines.append(f"pictures {len(samples) - len(missing)} of {len(samples)} found in {folder}")
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            problems.append(f"{len(missing)} pictures are missing: {', '.join(missing[:_NAMED])}{more}")
    return lines, problems


def _missing(samples: list[Sample]) -> list[str]:
    return [s.image.name if s.image else s.image_id for s in samples if s.image is None or not s.image.is_file()]


def _checksum_lines(card: Card, root: Path, annotations: Path | None) -> list[str]:
    """A line for each annotation file: its sha256 beside the one that is stated, which other forms do not have."""
    from groma_eval.readers import files

    stated = _stated_checksums(card)
    lines = []
    for key, place in card.data.items():
        if key == "images":
            continue
        if key == "annotations":
            paths = files(card.reader, annotations or root / place, **card.options)
        else:
            paths = [root / place]
        for path in paths:
            found = _sha256(path)
            line = f"{path}: sha256 {found}"
            if place in stated and len(paths) == 1:
                line += ", as stated" if stated[place] == found else f"; stated is {stated[place]}, of another form"
            lines.append(line)
    return lines


def _stated_checksums(card: Card) -> dict[str, str]:
    """sha256 by path below the data root, from the file of checksums beside the card; none where there is none."""
    home = re.match(r".*?\.ya?ml", card.source)  # a card's source is its file, with the place in it
    path = Path(home.group()).with_name(CHECKSUMS) if home else None
    if path is None or not path.is_file():
        return {}
    rows = re.findall(r"^([0-9a-f]{64}) [ *](.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.strip(): value for value, name in rows}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
