"""Ablations: variants of a training that differ in named settings, over seeds, in one table.

An ablation is a YAML file (``recipes/ablations``). Trainings share every stage whose recipe, seed and history are the
same; results are kept as they come, so that an interrupted ablation continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from groma_eval.baseline_rows import load_baselines
from groma_eval.core import HarnessError


@dataclass(frozen=True)
class Ablation:
    """What is varied (``variants``: name -> recipe's name -> its settings), how it is trained and what is measured.

    ``columns``: benchmark -> metrics. ``data``: scenes a split of the shapes world. ``paper``: published rows set
    beside ours, each the fields by which it is found in ``results/baselines/ablations.csv`` and the ``variant`` that
    it answers to.
    """

    title: str
    seeds: tuple[int, ...]
    data: Mapping[str, int]
    stages: tuple[Path, ...]
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]]
    columns: Mapping[str, Sequence[str]]
    paper: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Stage:
    """One stage of one training: its recipe and the folder that its settings, seed and history decide."""

    recipe: dict[str, Any]
    folder: Path
    init: Path | None


def load_ablation(path: Path) -> Ablation:
    """Read an ablation file. Raises HarnessError naming file and field."""
    try:
        values = yaml.safe_load(path.read_text())
        stages = tuple(path.parent.parent / name for name in values["stages"])
        return Ablation(values["title"], tuple(values["seeds"]), values["data"], stages, values["variants"],
                        values["columns"], values.get("paper", ()))  # fmt: skip
    except FileNotFoundError:
        raise HarnessError(f"ablation {path} is missing") from None
    except yaml.YAMLError as error:
        raise HarnessError(f"ablation {path} is not YAML: {str(error).splitlines()[0]}") from None
    except (KeyError, TypeError) as error:
        raise HarnessError(f"ablation {path} lacks {error}") from None


def plan(ablation: Ablation, variant: str, seed: int, out: Path) -> list[Stage]:
    """The stages of one training, in order.

    Raises:
        HarnessError: a variant changes a recipe that the ablation does not train.
    """
    changes = ablation.variants[variant]
    unknown = sorted(set(changes) - {path.stem for path in ablation.stages})
    if unknown:
        raise HarnessError(f"variant {variant!r} changes recipe {unknown[0]!r}, which this ablation does not train")
    planned: list[Stage] = []
    history = ""
    for path in ablation.stages:
        recipe = _merged(yaml.safe_load(path.read_text()), changes.get(path.stem, {}))
        recipe["seed"] = seed
        history += json.dumps(recipe, sort_keys=True)
        key = hashlib.sha256(history.encode()).hexdigest()[:10]
        init = planned[-1].folder if planned else None
        planned.append(Stage(recipe, out / f"{recipe['stage']}-{key}", init))
    return planned


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with ``changes``; a mapping in both is merged itself."""
    merged = dict(settings)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def run_ablation(ablation: Ablation, out: Path, data_root: Path, jobs: int = 1) -> list[dict[str, Any]]:
    """Train and measure every variant with every seed, ``jobs`` trainings at a time; returns the rows of results.

    Raises:
        HarnessError: a stage failed; what was done before is kept.
    """
    from groma_eval.benchmarks.shapes.prepare import prepare

    prepare(data_root, dict(ablation.data), workers=jobs)
    trainings = {(v, s): plan(ablation, v, s, out) for s in ablation.seeds for v in ablation.variants}
    for depth in range(len(ablation.stages)):
        stages = {str(stages[depth].folder): stages[depth] for stages in trainings.values()}
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda stage: _train(stage, data_root), stages.values()))
    path = out / "results.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    # The folder may be shared by ablations, which measure different things of one and the same training.
    keys = {f"{name}/{metric}" for name, metric in _columns(ablation)}
    known = {row["checkpoint"]: row for row in rows}
    for (variant, seed), stages in trainings.items():
        checkpoint = stages[-1].folder
        row = known.get(checkpoint.name)
        if row is None:
            seconds = [json.loads((s.folder / "finished.json").read_text())["seconds"] for s in stages]
            row = {"variant": variant, "seed": seed, "checkpoint": checkpoint.name, "seconds": sum(seconds),
                   "metrics": {}}  # fmt: skip
            rows.append(row)
        if not keys <= row["metrics"].keys():
            row["metrics"] |= _measure(ablation, checkpoint, out, data_root)
            _write(path, rows)
    wanted = {stages[-1].folder.name: place for place, stages in trainings.items()}
    kept = [row for row in rows if row["checkpoint"] in wanted]
    return [{**row, "variant": wanted[row["checkpoint"]][0]} for row in kept]


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps([row for row in rows if row["metrics"]], indent=1) + "\n")
    beside.replace(path)


def _train(stage: Stage, data_root: Path) -> None:
    if (stage.folder / "finished.json").is_file():
        return
    stage.folder.mkdir(parents=True, exist_ok=True)
    recipe = stage.folder / "given.yaml"
    recipe.write_text(yaml.safe_dump(stage.recipe))
    command = [sys.executable, "-m", "groma_eval.cli.train", stage.recipe["stage"], "--recipe", str(recipe),
               "--out", str(stage.folder), "--data", str(data_root / "shapes"), "--no-evaluate"]  # fmt: skip
    command += ["--init", str(stage.init)] if stage.init else []
    began = time.time()
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    log = stage.folder / "stderr.txt"
    with log.open("w") as file:
        code = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False).returncode
    if code:
        said = [line for line in log.read_text().splitlines() if "Error" in line or "error:" in line]
        raise HarnessError(f"{stage.folder.name} failed: {said[-1] if said else f'exit {code}'} (all of it: {log})")
    print(f"{stage.folder.name}: {time.time() - began:.0f} s", file=sys.stderr)


def _measure(ablation: Ablation, checkpoint: Path, out: Path, data_root: Path) -> dict[str, float]:
    from groma_eval.run import evaluate

    result = evaluate(
        f"groma:{checkpoint}", list(ablation.columns), out=out / f"eval-{checkpoint.name}", data_root=data_root,
        batch_size=16,
    )  # fmt: skip
    return {f"{name}/{metric}": result.metrics[name]["metrics"][metric] for name, metric in _columns(ablation)}


def _columns(ablation: Ablation) -> Iterator[tuple[str, str]]:
    for name, metrics in ablation.columns.items():
        for metric in metrics:
            yield name, metric


def ablation_table(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean and standard deviation over seeds of every metric, a row a variant; what each costs, in words."""
    from tabulate import tabulate

    heads = [f"{name.removesuffix('-val')} {metric}" for name, metric in _columns(ablation)]
    keys = [f"{name}/{metric}" for name, metric in _columns(ablation)]
    values = {v: {k: [r["metrics"][k] for r in rows if r["variant"] == v] for k in keys} for v in ablation.variants}
    table = []
    for variant in ablation.variants:
        cells = [_spread(values[variant][key]) for key in keys]
        minutes = [row["seconds"] / 60 for row in rows if row["variant"] == variant]
        table.append([variant, *cells, f"{statistics.fmean(minutes):.1f}"])
    text = tabulate(table, ["variant", *heads, "minutes"], tablefmt="pipe")
    first, *others = ablation.variants
    sentences = []
    for variant in others:
        gains = {
            head: statistics.fmean(values[variant][key]) - statistics.fmean(values[first][key])
            for head, key in zip(heads, keys)
        }
        changes = ", ".join(f"{head} by {gain:+.1f}" for head, gain in gains.items())
        sentences.append(f"Against {first!r}, {variant!r} changes {changes}.")
    recipes = {path.stem: yaml.safe_load(path.read_text()) for path in ablation.stages}
    steps = ", ".join(f"{name} {recipe['steps']}" for name, recipe in recipes.items())
    presets = ", ".join(dict.fromkeys(r["preset"] for r in recipes.values() if r.get("preset")))
    seeds = ", ".join(map(str, ablation.seeds))
    note = f"Mean ± standard deviation over seeds {seeds}; preset {presets}, steps: {steps} ({ablation.data['train']} "
    note += "training scenes)."
    return f"{text}\n\n{note} {' '.join(sentences)}\n{_paper(ablation)}"


def _paper(ablation: Ablation) -> str:
    """Markdown: the published rows that an ablation is to be read beside; nothing where it names none."""
    from tabulate import tabulate

    if not ablation.paper:
        return ""
    published, rows = load_baselines("ablations"), []
    for wanted in ablation.paper:
        fields = {key: value for key, value in wanted.items() if key != "variant"}
        found = [row for row in published if all(getattr(row, key) == value for key, value in fields.items())]
        if len(found) != 1 or wanted.get("variant") not in ablation.variants:
            raise HarnessError(f"ablation {ablation.title!r}: paper: {dict(wanted)} names {len(found)} published rows")
        (row,) = found
        rows.append([wanted["variant"], f"{row.benchmark} ({row.split}), {row.metric}", str(row.value), row.source])
    return (
        "\n"
        + tabulate(rows, ["variant", "published", "value", "source"], tablefmt="pipe", disable_numparse=True)
        + "\n"
    )


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {deviation:.1f}"
