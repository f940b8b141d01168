"""The region proposer: sampling against its definition, refinement, independence of images, precision."""

from __future__ import annotations

import math

import pytest
import torch

from groma_model.boxes import cxcywh_to_xyxy
from groma_model.configuration import GromaConfig
from groma_model.ops.deformable_attention import deformable_sample
from groma_model.proposer import RegionProposer
from groma_model.proposer_layers import box_encoding, grid_encodings, inverse_sigmoid


def _config(**overrides) -> GromaConfig:
    vision = dict(model_type="dinov2", hidden_size=96, num_hidden_layers=4, num_attention_heads=3, image_size=128,
                  patch_size=16)  # fmt: skip
    sizes = dict(vision_config=vision, proposer_layers=4, proposer_dropout=0.0, anchor_size=0.2, proposer_dim=32,
                 proposer_heads=4, proposer_points=2, proposer_ffn_dim=48, proposer_box_head_dim=24,
                 proposer_encoder_layers=1, proposer_decoder_layers=3, num_queries=7)  # fmt: skip
    return GromaConfig(**(sizes | overrides))


def _proposer(seed: int = 0, **overrides) -> RegionProposer:
    """A proposer with every parameter random, so that no zero-initialised head hides a mistake."""
    torch.manual_seed(seed)
    model = RegionProposer(_config(**overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def _states(batch: int = 2, side: int = 6, width: int = 96, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, side * side, width, generator=generator) for _ in range(5)]


def _moved(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and gradient.abs().max().item() > 0


def test_deformable_sample_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    batch, queries, heads, levels, points, side, width = 2, 3, 2, 2, 3, 4, 5
    value = torch.randn(batch, levels * side * side, heads, width, generator=generator, dtype=torch.float64)
    locations = torch.rand(batch, queries, heads, levels, points, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, levels, points, generator=generator)
    expected = torch.zeros(batch, queries, heads, width, dtype=torch.float64)
    for b, q, h, l, p in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        x, y = (locations[b, q, h, l, p].double() * side - 0.5).tolist()
        for column in range(side):
            for row in range(side):
                share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                cell = value[b, l * side * side + row * side + column, h]
                expected[b, q, h] += share * weights[b, q, h, l, p].item() * cell
    result = deformable_sample(value.float(), locations, weights, side)
    torch.testing.assert_close(result, expected.flatten(2).float(), atol=1e-5, rtol=0)


def test_encodings_are_their_definition():
    side, width = 5, 12
    encoding, centres = grid_encodings(side, width, torch.device("cpu"))
    for row, column, feature in [(0, 0, 0), (3, 1, 5), (4, 2, 9), (2, 4, 10)]:
        place, index = (row, feature) if feature < width // 2 else (column, feature - width // 2)
        angle = (place + 0.5) / (side + 1e-6) * 2 * math.pi / 10000 ** (2 * (index // 2) / (width // 2))
        expected = math.sin(angle) if index % 2 == 0 else math.cos(angle)
        assert encoding[row * side + column, feature].item() == pytest.approx(expected, abs=1e-5)
        assert centres[row * side + column].tolist() == pytest.approx([(column + 0.5) / side, (row + 0.5) / side])
    encoded = box_encoding(torch.tensor([0.1, 0.2, 0.3, 0.4]), 6)
    assert encoded.shape == (24,)
    assert encoded[6 + 2].item() == pytest.approx(math.sin(0.2 * 2 * math.pi / 10000 ** (2 / 6)), abs=1e-6)
    assert encoded[18 + 5].item() == pytest.approx(math.cos(0.4 * 2 * math.pi / 10000 ** (4 / 6)), abs=1e-6)


def test_shapes_and_fused_score():
    model = _proposer(objectness_exponents=(0.25, 0.5))
    output = model(_states())
    assert output.boxes.shape == (2, 7, 4)
    assert output.layer_boxes.shape == (3, 2, 7, 4)
    assert output.layer_coco_logits.shape == output.layer_sa1b_logits.shape == (3, 2, 7)
    assert output.encoder_boxes.shape == (2, 36, 4)
    assert output.encoder_logits.shape == (2, 36)
    assert torch.equal(output.boxes, cxcywh_to_xyxy(output.layer_boxes[-1]))
    expected = output.coco_logits.sigmoid() ** 0.25 * output.sa1b_logits.sigmoid() ** 0.5
    torch.testing.assert_close(output.score, expected)
    ranked = output.encoder_logits.gather(1, output.selected)
    assert torch.equal(ranked, output.encoder_logits.topk(7).values)


@pytest.mark.parametrize("scheme", ["accumulate", "released"])
def test_refinement_adds_the_right_deltas(scheme):
    model = _proposer(box_refinement=scheme)
    deltas: list[torch.Tensor] = []
    used: list[torch.Tensor] = []
    for head, layer in zip(model.box_heads, model.decoder):
        head.register_forward_hook(lambda _m, _i, out: deltas.append(out))
        layer.register_forward_pre_hook(lambda _m, given: used.append(given[3]))
    output = model(_states())
    first = output.encoder_boxes.gather(1, output.selected[..., None].expand(-1, -1, 4))
    for i in range(3):
        summed = sum(deltas[: i + 1]) if scheme == "accumulate" else sum(deltas[max(0, i - 1) : i + 1])
        expected = (inverse_sigmoid(first) + summed).sigmoid()
        torch.testing.assert_close(output.layer_boxes[i], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(used[i], output.layer_boxes[i - 1] if scheme == "accumulate" and i else first)
        assert not used[i].requires_grad


def test_boxes_look_forward_twice():
    """The gradient of a layer's box reaches its own box head and the one before it, and no earlier one."""
    model = _proposer()
    model(_states()).layer_boxes[2].sum().backward()
    has_gradient = [_moved(head.layers[-1].bias.grad) for head in model.box_heads]
    assert has_gradient == [False, True, True, False]


def test_images_do_not_influence_each_other():
    model, states = _proposer(), _states(batch=3)
    together = model(states)
    alone = model([state[1:2] for state in states])
    torch.testing.assert_close(together.boxes[1:2], alone.boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.score[1:2], alone.score, atol=1e-5, rtol=0)


def test_only_the_last_layers_are_read():
    model, states = _proposer(), _states()
    reference = model(states).boxes
    assert torch.equal(model([state * 0 for state in states[:1]] + states[1:]).boxes, reference)
    assert not torch.equal(model(states[:1] + [state * 0 for state in states[1:2]] + states[2:]).boxes, reference)


def test_pyramid_gives_every_layer_its_own_level():
    model = _proposer(proposer_features="pyramid")
    assert model.level_embed.shape == (4, 32)
    assert len(model.input_proj) == 4
    states = _states()
    output = model(states)
    assert output.encoder_boxes.shape == (2, 4 * 36, 4)
    assert output.boxes.isfinite().all()
    swapped = model([states[0], states[2], states[1], *states[3:]])
    assert not torch.allclose(swapped.boxes, output.boxes, atol=1e-3)


def test_fresh_proposer_starts_at_its_anchors():
    torch.manual_seed(0)
    output = RegionProposer(_config(anchor_size=0.2)).eval()(_states(side=4))
    centres = grid_encodings(4, 8, torch.device("cpu"))[1]
    anchors = torch.cat([centres, torch.full((16, 2), 0.2)], -1).expand(2, -1, -1)
    torch.testing.assert_close(output.encoder_boxes, anchors, atol=1e-5, rtol=0)
    chosen = anchors.gather(1, output.selected[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(output.layer_boxes, chosen.expand(3, -1, -1, -1), atol=1e-5, rtol=0)
    for logits in (output.layer_coco_logits, output.layer_sa1b_logits, output.encoder_logits):
        assert 0 < logits.sigmoid().mean() < 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_close(dtype):
    model, states = _proposer(num_queries=36), _states()
    exact = model(states)
    output = model.to(dtype)([state.to(dtype) for state in states])
    assert output.boxes.dtype == output.score.dtype == torch.float32
    torch.testing.assert_close(output.encoder_boxes, exact.encoder_boxes, atol=0.05, rtol=0)
    # With every token a query, content follows rank: only tokens of one rank in both runs can be compared.
    same = output.selected == exact.selected
    assert same.any()
    assert (output.boxes - exact.boxes)[same].abs().mean() < 0.05


def test_training_works_after_inference_mode():
    """The cached grid must not hold inference tensors."""
    model, states = _proposer(), _states(side=7)
    with torch.inference_mode():
        model(states)
    model(states).layer_boxes.sum().backward()
    assert model.level_embed.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (_states()[:3], "reads 4 layers, 3 were given"),
        ([state[:, :-1] for state in _states()], "35 patch tokens do not form a square grid"),
        (_states(side=2), "4 grid tokens cannot give num_queries = 7"),
    ],
)
def test_bad_input_is_named(states, message):
    with pytest.raises(ValueError, match=message):
        _proposer()(states)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_cuda_agrees_with_cpu():
    model, states = _proposer(), _states()
    exact = model(states)
    output = model.cuda()([state.cuda() for state in states])
    assert torch.equal(output.selected.cpu(), exact.selected)
    torch.testing.assert_close(output.boxes.cpu(), exact.boxes, atol=1e-4, rtol=0)
