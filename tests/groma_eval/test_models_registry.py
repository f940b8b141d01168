"""Names to adapters, and what is said about wrong names."""

from __future__ import annotations

import pytest

from groma_eval.core import HarnessError, ModelInfo
from groma_eval.models import available, load, register, registry


class Plain:
    def __init__(self, argument, options):
        self.argument, self.options = argument, options
        self.info = ModelInfo("plain", frozenset({"propose", "ground_one"}), notes=("plain",))

    def answer(self, samples, decoding, prompts, protocol):
        return iter(())


@pytest.fixture
def made(monkeypatch):
    """A registered model ``plain``; the list of those made."""
    built = []

    def factory(argument, **options):
        built.append(Plain(argument, options))
        return built[-1]

    monkeypatch.setattr(registry, "_registered", {})
    registry._cache.clear()
    register("plain", factory)
    yield built
    registry._cache.clear()


def test_registered_model_and_its_argument(made):
    assert load("plain").argument is None
    model = load("plain:a:b", device="cpu", dtype="fp32", model_args={"k": "v"})
    assert model.argument == "a:b"
    assert model.options == {"device": "cpu", "dtype": "fp32", "model_args": {"k": "v"}}
    assert "plain" in available()


def test_bounds_share_a_loaded_model(made):
    model = load("plain", model_args={"k": "v"})
    for kind in ("oracle-proposal", "random-proposal", "largest-proposal", "blind"):
        assert load(f"bound:{kind}@plain", model_args={"k": "v"}).model is model
    assert len(made) == 1
    assert load("plain") is not model
    assert load("plain", device="cpu") is not load("plain")


def test_cache_stays_small(made):
    for i in range(10):
        load(f"plain:{i}")
    assert len(registry._cache) <= 4
    latest = load("plain:9")
    assert latest is made[9]


def test_entry_points_are_models(made, monkeypatch):
    class Point:
        name = "theirs"

        def load(self):
            return lambda argument, **options: Plain(argument, options)

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "groma_eval.models" else [])
    assert load("theirs:x").argument == "x"
    assert "theirs" in available()


def test_every_listed_bound_loads(made):
    for name in available():
        if name.startswith("bound:") and name != "bound:majority":
            assert load(name.replace("MODEL", "plain")).info.name == name.replace("MODEL", "plain")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("groma-tyni", "did you mean groma-tiny"),
        ("bound:centre", "did you mean bound:center"),
        ("bound:oracle@groma-tiny", "bound:oracle-proposal@MODEL"),
        ("bound:blind", "write bound:blind@MODEL"),
        ("bound:center@groma-tiny", "uses no model"),
        ("bound:blind@nonsense", "unknown model 'nonsense'"),
        ("qqqq", "known: groma-tiny"),
        ("groma:", "names no checkpoint"),
        ("./not/here", "no such folder"),
        ("qwen3-v", "did you mean qwen3-vl:PATH"),
        ("kosmos2", "did you mean kosmos-2:PATH"),
        ("endpoints:m", "did you mean endpoint:MODEL"),
        ("bound:blind@qwen3vl", "did you mean qwen3-vl:PATH"),
    ],
)
def test_wrong_names(made, name, message):
    with pytest.raises(HarnessError) as caught:
        load(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bounds_take_no_settings(made):
    with pytest.raises(HarnessError, match="takes no --model-args"):
        load("bound:center", model_args={"k": "v"})
