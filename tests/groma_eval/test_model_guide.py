"""The guide "Add a model", followed literally on the benchmark that the benchmark guide makes."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
import sys
import tomllib

import pytest
from conftest import ROOT

from groma_eval.cli.evaluate import main
from groma_eval.models import registry
from groma_eval.models.adapters import ADAPTERS

GUIDE = ROOT / "docs/add_a_model.md"


def blocks(path):
    """(language, text) of a guide's code blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def save(folder, text):
    path = folder / re.match(r"# (\S+)\n", text).group(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """An empty folder with the other guide's pictures and cards, on the path as an installed package's would be."""
    for name in ("GROMA_BENCHMARKS", "GROMA_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for language, text in blocks(ROOT / "docs/add_a_benchmark.md"):
        if language in ("python", "yaml"):
            path = save(tmp_path, text)
            if language == "python":
                runpy.run_path(str(path), run_name="__main__")
    yield tmp_path
    registry._cache.clear()
    sys.modules.pop("colour_model", None)


def install(folder):
    """What ``pip install -e .`` leaves behind of the package's entry points (its dependency is here already)."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    importlib.invalidate_caches()


def test_the_guide_works_as_written(kitchen, capsys):
    codes = []
    for language, text in blocks(GUIDE):
        if language in ("python", "toml"):
            path = save(kitchen, text)
            if path.name.startswith("evaluate"):
                runpy.run_path(str(path), run_name="__main__")
            continue
        assert language == "bash"
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            if program == "pip":
                assert arguments == ["install", "-e", "."]
                install(kitchen)
            else:
                assert program == "groma-eval"
                codes.append(main(arguments))
    assert codes == [0, 0, 0]
    printed = capsys.readouterr().out
    assert re.search(r"^colours +added by a user\n +answers ground_all, ground_one; boxes: xyxy \(pixels\)$", printed,
                     re.MULTILINE)  # fmt: skip
    assert "12 boxes fit the declared xyxy (pixels)" in printed
    for run in ("runs/object", "runs/colours"):
        metrics = json.loads((kitchen / run / "metrics.json").read_text())["kitchen_rec"]
        assert metrics["metrics"]["acc@0.5"] == 100
        assert metrics["metrics"]["miou"] > 95
    manifest = json.loads((kitchen / "runs/colours/manifest.json").read_text())
    assert manifest["key"]["model_args"] == {"tolerance": "20"}


def test_the_adapter_is_thirty_lines():
    code = next(text for language, text in blocks(GUIDE) if language == "python")
    lines = code[code.index("class ") :].strip().splitlines()
    assert len([line for line in lines if line.strip()]) <= 30


def test_a_package_that_cannot_be_imported_does_not_hide_the_others(kitchen, capsys):
    (kitchen / "pyproject.toml").write_text(
        '[project]\nname = "broken"\nversion = "1"\n[project.entry-points."groma_eval.models"]\nbroken = "nowhere:X"\n'
    )
    install(kitchen)
    assert main(["list", "models"]) == 0
    printed = capsys.readouterr().out
    assert "cannot be loaded (No module named 'nowhere')" in printed
    assert "qwen3-vl:PATH" in printed


def test_the_list_shows_every_adapter_with_its_format_and_frame(capsys):
    assert main(["list", "models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for declared in ADAPTERS.values():
        (index,) = [i for i, line in enumerate(lines) if line.startswith(f"{declared.name}:PATH ")]
        assert lines[index + 1].split() == (
            f"answers {', '.join(sorted(declared.capabilities))}; boxes: {declared.box_format} ({declared.frame})"
        ).split()  # fmt: skip
    known = [i for i, line in enumerate(lines) if line and not line.startswith(" ")]
    assert all(lines[i + 1].startswith(" ") for i in known), "a model without its capabilities"


def test_the_page_of_models_is_complete():
    page = (ROOT / "docs/models.md").read_text()
    for declared in ADAPTERS.values():
        assert f"| `{declared.name}` | {declared.checkpoint} |" in page
