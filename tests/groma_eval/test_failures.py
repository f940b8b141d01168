"""Injected failures: the run completes where it can, loses nothing, and says so once."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import time

import pytest
from harness_fakes import Fake, rec_rows, truth, write_benchmark, write_pictures
from loading_fakes import Loading

from groma_eval import evaluate
from groma_eval.cli.evaluate import main
from groma_eval.core import HarnessError
from groma_eval.store import BenchmarkStore

IMAGES = 24
STORED = ("metrics.json", "toy/samples.jsonl")


@pytest.fixture
def root(tmp_path):
    write_benchmark(tmp_path, rec_rows(images=IMAGES), pictures=False)
    write_pictures(tmp_path / "images", [f"pic_{i:03d}.png" for i in range(IMAGES)])
    return tmp_path


def _run(root, model, out="run", **options):
    return evaluate(model, root / "cards/card.yaml", out=root / out, data_root=root, progress=False, **options)


def _same(root, a="run", b="whole"):
    return [(root / a / name).read_bytes() for name in STORED] == [(root / b / name).read_bytes() for name in STORED]


class Limited(Fake):
    """Memory for ``most`` images; what came before it ended was given out."""

    def __init__(self, most, error, early=False):
        super().__init__(truth)
        self.most, self.error, self.early = most, error, early

    def answer(self, samples, *args):
        if len(samples) > self.most and not self.early:
            raise self.error
        for number, answer in enumerate(super().answer(samples, *args)):
            if number >= self.most:
                raise self.error
            yield answer


def _errors():
    import torch

    return [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("most", [1, 2, 5, 11])
def test_out_of_memory_at_any_size(root, capsys, most, early):
    _run(root, Fake(truth), "whole")
    for kind, error in enumerate(_errors()):
        model = Limited(most, error, early)
        _run(root, model, f"run{kind}", batch_size="auto")
        shown = capsys.readouterr().err
        assert shown.count("warning") == shown.count("\n") == 1
        assert "out of memory at" in shown
        assert _same(root, f"run{kind}")
        if not early:
            assert sorted(model.asked) == sorted({*model.asked})  # no image was answered twice


def test_out_of_memory_with_one_image_ends_the_run_and_keeps_the_rest(root):
    class Blocked(Fake):
        def answer(self, samples, *args):
            if "pic_020" in {sample.image_id for sample in samples}:
                raise MemoryError
            return super().answer(samples, *args)

    with pytest.raises(HarnessError, match=r"out of memory at 1 image\(s\)"):
        _run(root, Blocked(truth), batch_size="auto")
    kept = sum(part.read_text().count("\n") for part in (root / "run/toy/parts").glob("*.jsonl"))
    assert kept >= 16
    model = Fake(truth)
    _run(root, model, batch_size="auto")
    assert "pic_000" not in model.asked
    _run(root, Fake(truth), "whole")
    assert _same(root)


def test_another_error_of_the_model_is_not_taken_for_memory(root):
    class Wrong(Fake):
        def answer(self, samples, *args):
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        _run(root, Wrong(truth), batch_size="auto")


def test_workers_read_every_picture_ahead(root, capsys):
    (root / "images/pic_003.png").write_bytes(b"no picture")
    (root / "images/pic_017.png").unlink()
    model, plain = Loading(), Fake(truth, needs_images=True)
    result = _run(root, model, batch_size=4, workers=2)
    assert model.loaded.keys() == {f"pic_{i:03d}" for i in range(IMAGES)} - {"pic_003", "pic_017"}
    assert os.getpid() not in {process for process, _ in model.loaded.values()}
    assert model.loaded["pic_005"][1].shape == (60, 80, 3)
    _run(root, plain, "whole", batch_size=4)
    assert _same(root)
    assert (result.exit_code, result.metrics["toy"]["counts"]["failed"]) == (1, 6)
    assert (root / "run/toy/images.jsonl").read_bytes() == (root / "whole/toy/images.jsonl").read_bytes()
    assert capsys.readouterr().err == ""


def test_a_worker_that_dies_takes_nothing_with_it(root, capsys):
    model = Loading("pic_010", root / "died")
    _run(root, model, batch_size=4, workers=2)
    assert (root / "died").exists()
    shown = capsys.readouterr().err
    assert shown.count("warning") == shown.count("\n") == 1
    assert "reading pictures in worker processes failed" in shown
    assert sorted(model.asked) == [f"pic_{i:03d}" for i in range(IMAGES)]
    assert "pic_023" not in model.loaded  # the process read it itself
    _run(root, Fake(truth, needs_images=True), "whole", batch_size=4)
    assert _same(root)


def test_a_slow_disk_slows_the_run_to_its_own_rate(root, capsys, monkeypatch):
    write, ahead = BenchmarkStore.append, []
    model = Fake(truth)

    def slowly(store, records):
        time.sleep(0.02)
        write(store, records)
        stored = sum(part.read_text().count("\n") for part in store.parts.glob("*.jsonl"))
        ahead.append(len(model.asked) - stored)

    monkeypatch.setattr(BenchmarkStore, "append", slowly)
    _run(root, model, batch_size=1)
    assert len(ahead) == IMAGES
    assert max(ahead) <= 4 + 2  # the queue, a batch that waits to enter it, one being asked
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    _run(root, Fake(truth), "whole", batch_size=1)
    assert _same(root)


@contextlib.contextmanager
def no_file_beyond(size):
    """A disk that takes the first ``size`` bytes of a file and refuses the rest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _command(root, out):
    return main(
        ["run", "--model", "bound:center", "--benchmarks", str(root / "cards/card.yaml"), "--out", str(root / out),
         "--data-root", str(root), "--batch-size", "2", "--no-progress"]
    )  # fmt: skip


def test_a_full_disk_stops_the_run_cleanly_and_it_can_go_on(root, capsys):
    assert _command(root, "whole") == 0
    capsys.readouterr()
    with no_file_beyond(9_000):
        assert _command(root, "run") == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "toy/parts: cannot be written (File too large); mend that and repeat the command" in shown
    (part,) = (root / "run/toy/parts").glob("*.jsonl")
    lines = part.read_text().splitlines()
    assert lines
    assert len(lines) % 2 == 0  # whole batches, whole lines
    assert all(json.loads(line)["answers"] for line in lines)
    assert not (root / "run/toy/samples.jsonl").exists()
    assert _command(root, "run") == 0
    assert _same(root)


def test_a_disk_that_is_full_when_the_parts_are_merged(root, capsys):
    assert _command(root, "whole") == 0
    size = (root / "whole/toy/samples.jsonl").stat().st_size
    capsys.readouterr()
    with no_file_beyond(size - 1):
        assert _command(root, "run") == 2
    assert "samples.jsonl: cannot be written" in capsys.readouterr().err
    assert [path.name for path in (root / "run/toy").iterdir()] == ["parts"]
    assert _command(root, "run") == 0
    assert _same(root)


def test_a_fault_in_the_writer_is_told_as_it_is(root):
    class Odd(Fake):
        def answer(self, samples, *args):
            for answer in super().answer(samples, *args):
                answer.predictions[0].raw = object()
                yield answer

    with pytest.raises(TypeError, match="not JSON serializable"):
        _run(root, Odd(truth), batch_size=1)


def test_a_folder_that_cannot_be_made(root):
    (root / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be made"):
        _run(root, Fake(truth), "file/run")
