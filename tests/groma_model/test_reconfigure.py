"""The same model under other settings."""

from __future__ import annotations

import pytest
import torch

from groma_model.configuration import preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.reconfigure import reconfigured


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GromaForConditionalGeneration(preset("nano"))


@pytest.mark.parametrize(
    ("settings", "new"),
    [
        ({"token_merge": False}, ["projector.0.weight"]),
        ({"pointer_head": False}, []),
        ({"score_threshold": 0.3}, []),
        ({"num_queries": 20}, ["proposer.query_content.weight"]),
    ],
)
def test_what_fits_is_kept_and_the_rest_begins_anew(model, settings, new):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other, fresh = reconfigured(model, **settings)
    assert fresh == new
    assert all(getattr(other.config, key) == value for key, value in settings.items())
    for name, tensor in other.state_dict().items():
        assert (name in fresh) or torch.equal(tensor, before[name])
    assert ("pointer.query.weight" in other.state_dict()) == settings.get("pointer_head", True)
    # The given model is left as it was.
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(getattr(model.config, key) != value for key, value in settings.items())


def test_an_unknown_setting_is_refused(model):
    with pytest.raises(ValueError, match="overrides: the configuration has no setting 'tokens_merged'"):
        reconfigured(model, tokens_merged=False)
