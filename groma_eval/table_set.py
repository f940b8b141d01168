"""A paper's whole set of tables from one file, ``tables.yaml``: what stands in each, and how it is written.

    formats: [latex, md]                 # of the tables that name none
    tables:
      - file: rec                        # rec.tex, rec.md
        task: rec
        runs: ["runs/*"]

:data:`FIELDS` has them all; docs/tables.md explains them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from groma_eval.baseline_rows import SETTINGS
from groma_eval.core import HarnessError
from groma_eval.table_choice import Choice
from groma_eval.table_columns import KINDS, PAPER
from groma_eval.table_formats import FORMATS, INTERVALS, render
from groma_eval.table_grid import Table
from groma_eval.table_significance import compared_table
from groma_eval.tables import BASELINES, build_table, captioned

SUFFIXES = {"text": ".txt", "md": ".md", "latex": ".tex", "csv": ".csv", "html": ".html"}


@dataclass(frozen=True)
class Entry:
    """One table of the set. ``where`` is what errors call it; the other names are those of the file."""

    where: str
    file: str
    task: str
    benchmarks: tuple[str, ...] = ()
    published: str = "paper"
    settings: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    unranked: dict[str, str] = field(default_factory=dict)
    against: str = ""
    intervals: str = "none"
    caption: str = ""
    label: str = ""
    formats: tuple[str, ...] = ("latex",)


def build_set(path: Path, root: Path = Path()) -> dict[str, str]:
    """The set's files, name to text. ``root`` is the folder that paths of runs start from.

    Raises HarnessError naming the file, the table and the field.
    """
    files = {}
    for entry in load_set(path):
        try:
            table = build_entry(entry, root)
            for fmt in entry.formats:
                files[entry.file + SUFFIXES[fmt]] = render(table, fmt, entry.intervals)
        except HarnessError as error:
            raise HarnessError(f"{entry.where}: {error}") from None
    return files


def write_set(files: dict[str, str], out: Path) -> None:
    """Write the files into the folder ``out``, each in one step. Raises HarnessError where that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            beside = out / f".{name}.tmp"
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, out / name)
    except OSError as error:
        raise HarnessError(f"--out {out}: cannot be written ({error.strerror})") from None


def build_entry(entry: Entry, root: Path = Path()) -> Table:
    """The one main grid of an entry. Raises HarnessError where it has none, or several."""
    runs = find_runs(entry.runs, root)
    families = entry.benchmarks or tuple(dict.fromkeys(c.family for c in PAPER[entry.task].columns))
    choice = Choice(families, entry.rows, entry.settings, entry.columns, entry.unranked)
    if entry.against:
        table = compared_table(entry.task, runs, entry.published, choice, root / entry.against)
    else:
        table = build_table(entry.task, runs, entry.published, choice)
    main = [grid for grid in table.grids if grid.main]
    if len(main) > 1:
        raise HarnessError(f"benchmarks: these are {len(main)} tables, give each an entry of its own")
    return captioned(Table(table.kind, main), entry.caption, entry.label)


def find_runs(patterns: Sequence[str], root: Path = Path()) -> list[Path]:
    """Folders of finished runs: each path as it is, and for a pattern (``*``, ``?``, ``**``) those finished that fit
    it, in the order of their names. A pattern may fit none."""
    found: list[Path] = []
    for pattern in patterns:
        if not any(sign in pattern for sign in "*?["):
            found.append(root / pattern)
            continue
        absolute = Path(pattern).is_absolute()
        base, rest = (Path(pattern).anchor, pattern.lstrip("/")) if absolute else (root, pattern)
        files = ("manifest.json", "metrics.json")
        found += [f for f in sorted(Path(base).glob(rest)) if all((f / name).is_file() for name in files)]
    return list(dict.fromkeys(found))


def load_set(path: Path) -> list[Entry]:
    """The entries of a tables.yaml. Raises HarnessError in one line naming the table and field that is wrong."""
    data = _read(path)
    if not isinstance(data, dict):
        raise HarnessError(f"{path}: must hold 'tables:' with a list")
    _known(data, ("formats", "tables"), str(path))
    entries = data.get("tables")
    if not isinstance(entries, list) or not entries:
        raise HarnessError(f"{path}: tables: must be a list of at least one table")
    usual = {"formats": _check("formats", data["formats"], str(path))} if "formats" in data else {}
    found: list[Entry] = []
    for number, raw in enumerate(entries, 1):
        entry = _entry(raw, f"{path}: table {number}", usual)
        if entry.file in (other.file for other in found):
            raise HarnessError(f"{entry.where}: file: another table has this name too")
        found.append(entry)
    return found


def _entry(raw: Any, where: str, usual: dict[str, Any]) -> Entry:
    if not isinstance(raw, dict):
        raise HarnessError(f"{where}: must be fields with values, such as 'task: rec'")
    if isinstance(raw.get("file"), str):
        where = f"{where} ({raw['file']})"
    _known(raw, tuple(FIELDS), where)
    for name in ("file", "task"):
        if name not in raw:
            raise HarnessError(f"{where}: {name}: is missing")
    entry = Entry(where, **usual | {name: _check(name, value, where) for name, value in raw.items()})
    if not entry.benchmarks and entry.task not in PAPER:
        raise HarnessError(f"{where}: benchmarks: is missing; the paper has no table of the task {entry.task}")
    if not entry.runs and entry.published == "none":
        raise HarnessError(f"{where}: runs: is missing, and published is none, so there are no rows")
    if entry.against and not entry.runs:
        raise HarnessError(f"{where}: against: needs runs to compare with it")
    return entry


def _known(given: dict[Any, Any], fields: Sequence[str], where: str) -> None:
    for name in given:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(fields)}"
            raise HarnessError(f"{where}: unknown field '{name}'; {hint}")


def _check(name: str, value: Any, where: str) -> Any:
    try:
        return FIELDS[name](value)
    except ValueError as error:
        raise HarnessError(f"{where}: {name}: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be text, not {value!r}")
    return " ".join(value.split())


def _file(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", value):
        raise ValueError(f"must be a file name of letters, digits, '.', '_' and '-' without its ending, not {value!r}")
    return value


def _one_of(options: Sequence[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in options:
            raise ValueError(f"must be one of {', '.join(options)}, not {value!r}")
        return value

    return check


def _list_of(check: Callable[[Any], str]) -> Callable[[Any], tuple[str, ...]]:
    def check_list(value: Any) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError("must not be empty; leave the field out")
        return tuple(dict.fromkeys(check(each) for each in values))

    return check_list


def _reasons(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise ValueError("must be rows with the reason of each, such as {Qwen-VL: larger}")
    return {_text(name): _text(reason) for name, reason in value.items()}


#: The fields of a table, each with the function that checks its value and puts it into form.
FIELDS: dict[str, Callable[[Any], Any]] = {
    "file": _file,
    "task": _one_of(KINDS),
    "benchmarks": _list_of(_text),
    "published": _one_of(BASELINES),
    "settings": _list_of(_one_of(tuple(SETTINGS))),
    "runs": _list_of(_text),
    "rows": _list_of(_text),
    "columns": _list_of(_text),
    "unranked": _reasons,
    "against": _text,
    "intervals": _one_of(INTERVALS),
    "caption": _text,
    "label": _text,
    "formats": _list_of(_one_of(tuple(FORMATS))),
}


class _Loader(yaml.SafeLoader):
    """YAML in which a field that is given twice is a mistake, and not the last one taken."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise yaml.MarkedYAMLError(
                    problem=f"'{name}' is given twice", problem_mark=node.value[at][0].start_mark
                )
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise HarnessError(f"{path}:{line} not YAML ({getattr(error, 'problem', None) or error})") from None
