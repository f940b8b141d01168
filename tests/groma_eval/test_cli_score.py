"""``groma-eval score``: what its first word means, what each kind imports, and how the command answers bad calls."""

from __future__ import annotations

import subprocess
import sys

import pytest

from groma_eval.cli import score
from groma_eval.cli.evaluate import COMMANDS, main

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "pycocotools", "lvis", "datasets", "tabulate")


def test_help_lists_the_kinds(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["score", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "groma-eval score RUN..." in shown
    for kind in score.KINDS:
        assert f"\n  {kind} " in shown
    assert "./caption" in shown


@pytest.mark.parametrize("kind", score.KINDS)
def test_every_kind_says_what_it_needs(kind, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["score", kind, "--help"])
    assert caught.value.code == 0
    assert f"usage: groma-eval score {kind}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["score", kind])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"groma-eval score {kind}: error: the following arguments are required")
    assert shown.count("\n") == 1


def test_a_folder_called_like_a_kind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "caption").mkdir()
    assert main(["score", "./caption"]) == 2
    assert "caption/manifest.json: not there" in capsys.readouterr().err
    assert main(["score", "nowhere", "caption"]) == 2  # only the first word may be a kind
    assert "nowhere/manifest.json: not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "groma-eval: error: the following arguments are required: COMMAND"),
        (["score"], "groma-eval score: error: the following arguments are required: RUN"),
        (["scores"], "groma-eval: error: argument COMMAND: invalid choice: 'scores'"),
        (["score", "--json", "x"], "groma-eval score: error:"),
        (["run", "--model", "bound:center"], "groma-eval run: error: the following arguments are required"),
        (["list", "metric"], "groma-eval list: error: argument what: invalid choice: 'metric'"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert shown.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: groma-eval {command}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", score.KINDS)
def test_a_kind_starts_without_heavy_imports(kind):
    code = (
        "import sys\n"
        "from groma_eval.cli.evaluate import main\n"
        f"try: main(['score', {kind!r}])\n"
        "except SystemExit: pass\n"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
