"""The image encoder against transformers' own forward, and the token merge against its definition."""

from __future__ import annotations

import pytest
import torch

from groma_model.configuration import GromaConfig, preset
from groma_model.vision import ImageEncoder, interpolate_positions, merge_tokens

DINOV2 = dict(model_type="dinov2", hidden_size=32, num_hidden_layers=3, num_attention_heads=2, patch_size=8)
CLIP = dict(
    model_type="clip_vision_model", hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
    patch_size=8,
)  # fmt: skip


def build(vision, trained_size, size=48, **fields):
    torch.manual_seed(0)
    config = GromaConfig(vision_config=dict(vision, image_size=trained_size), image_size=size, **fields)
    return ImageEncoder(config).eval(), torch.randn(2, 3, size, size)


@torch.no_grad()
@pytest.mark.parametrize("vision", [DINOV2, CLIP], ids=["dinov2", "clip"])
@pytest.mark.parametrize("trained_size", [48, 64])
def test_hidden_states_are_those_of_the_wrapped_model(vision, trained_size):
    encoder, pixels = build(vision, trained_size)
    states = encoder(pixels)
    other_grid = {"interpolate_pos_encoding": True} if vision is CLIP else {}
    theirs = encoder.model(pixels, output_hidden_states=True, **other_grid).hidden_states
    assert len(states) == len(theirs) == 4
    for ours, reference in zip(states, theirs):
        assert ours.shape == (2, 36, 32)
        torch.testing.assert_close(ours, reference[:, 1:], atol=2e-5, rtol=0)


@torch.no_grad()
def test_last_state_is_before_the_final_layernorm():
    encoder, pixels = build(DINOV2, 48)
    encoder.model.layernorm.weight.zero_()
    assert encoder(pixels)[-1].abs().max() > 0


def test_equal_grids_are_not_resampled():
    positions = torch.randn(1 + 36, 5)
    assert interpolate_positions(positions, 6, "size") is positions
    assert interpolate_positions(positions, 6, "scale_factor") is positions


def test_resampling_keeps_the_class_position_and_a_constant_grid():
    positions = torch.cat([torch.full((1, 3), 7.0), torch.full((49, 3), 2.0)])
    for method in ("size", "scale_factor"):
        resampled = interpolate_positions(positions, 5, method)
        assert resampled.shape == (26, 3)
        assert torch.equal(resampled[0], positions[0])
        torch.testing.assert_close(resampled[1:], torch.full((25, 3), 2.0))


def test_a_resampled_grid_keeps_its_orientation():
    rows = torch.arange(8.0).repeat_interleave(8)
    positions = torch.cat([torch.zeros(1, 2), torch.stack([rows, torch.arange(8.0).repeat(8)], 1)])
    grid = interpolate_positions(positions, 4, "size")[1:].view(4, 4, 2)
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # newer transformers rename the switch
@pytest.mark.parametrize("vision", [DINOV2, CLIP], ids=["dinov2", "clip"])
def test_checkpointing_gives_the_same_gradients_also_through_resampled_positions(vision):
    gradients = []
    for checkpointing in (False, True):
        encoder, pixels = build(vision, 64)
        encoder.train()
        if checkpointing:
            encoder.model.gradient_checkpointing_enable()
            assert all(layer.gradient_checkpointing for layer in encoder._layers())
        encoder(pixels)[-1].square().mean().backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any("position_embedding" in name and grad.abs().max() > 0 for name, grad in gradients[0].items())
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad)


@torch.no_grad()
def test_bfloat16():
    encoder, pixels = build(DINOV2, 64)
    full = encoder(pixels)[-1]
    half = encoder.bfloat16()(pixels)[-1]
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0.1)


def test_merge_order():
    grid = torch.arange(16).view(1, 16, 1)  # row-major 4x4
    expected = [[0, 4, 1, 5], [2, 6, 3, 7], [8, 12, 9, 13], [10, 14, 11, 15]]
    assert merge_tokens(grid)[0].tolist() == expected


def test_merge_keeps_channels_together():
    tokens = torch.randn(2, 64, 3)
    merged = merge_tokens(tokens)
    assert merged.shape == (2, 16, 12)
    # Merged cell (row 1, column 2), third chunk: even row, odd column of its block.
    assert torch.equal(merged[1, 1 * 4 + 2, 6:9], tokens[1, 2 * 8 + 5])


@pytest.mark.parametrize("count", [9, 12])
def test_merge_refuses_other_grids(count):
    with pytest.raises(ValueError, match="even side"):
        merge_tokens(torch.zeros(1, count, 4))


@pytest.mark.parametrize("name", ["tiny", "nano"])
@torch.no_grad()
def test_presets_run(name):
    config = preset(name)
    states = ImageEncoder(config).eval()(torch.zeros(1, 3, config.image_size, config.image_size))
    assert len(states) == config.vision_config.num_hidden_layers + 1
    assert states[-1].shape == (1, config.grid_size**2, config.vision_config.hidden_size)
    assert merge_tokens(states[-1]).shape[1] == config.grid_size**2 // 4
