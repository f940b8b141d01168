"""The region proposer against the released code's recorded stages, sizes and detection losses."""

from __future__ import annotations

import pytest
import torch
from fixture import claims, close, note, released_weights, results, small_config, tensors

import groma_model.training.detection_loss as loss_module
from groma_model.boxes import cxcywh_to_xyxy
from groma_model.proposer import RegionProposer
from groma_model.released import released_names
from groma_model.training.detection_loss import detection_loss


@pytest.fixture(scope="module")
def proposer(shared) -> RegionProposer:
    model = RegionProposer(small_config()).eval()
    model.load_state_dict(released_weights(shared, "proposer"), strict=True)
    return model


@pytest.fixture(scope="module")
def states(shared) -> list[torch.Tensor]:
    recorded = tensors(shared, "01_vit")
    return [recorded[f"vit.hidden_states.{i}"][:, 1:] for i in range(7)]


def _recorder(module: torch.nn.Module) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    module.register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    return seen


@torch.no_grad()
def test_every_recorded_stage(shared, states):
    model = RegionProposer(small_config()).eval()
    model.load_state_dict(released_weights(shared, "proposer"), strict=True)
    recorded = tensors(shared, "02_perceiver")
    watched = {
        "input_proj": _recorder(model.input_proj[0]),
        "encoder_out": _recorder(model.encoder[-1]),
        "object_query": _recorder(model.enc_output_norm),
        "pos_trans_norm": _recorder(model.pos_trans_norm),
    }
    hidden = [_recorder(layer) for layer in model.decoder]
    output = model(states)

    def same(ours, name, tolerance):
        close(ours, recorded[name], tolerance, f"proposer: {name}")

    same(watched["input_proj"][0].transpose(1, 2).unflatten(2, (32, 32)), "input_proj", 2e-5)
    for name in ("encoder_out", "object_query", "pos_trans_norm"):
        same(watched[name][0], name, 1e-4)
    assert torch.equal(output.selected, recorded["topk_proposals"])
    same(output.encoder_logits[..., None], "enc_outputs_class", 1e-4)
    same(output.encoder_boxes.logit(), "enc_outputs_coord_logits", 2e-4)
    same(torch.stack([h[0] for h in hidden], 1), "decoder_intermediate_hidden", 1e-4)
    chosen = output.encoder_boxes.gather(1, output.selected[..., None].expand(-1, -1, 4))
    same(chosen, "init_reference_points", 1e-5)
    same(output.layer_boxes[-1], "pred_boxes", 1e-5)
    same(output.coco_logits[..., None], "logits_coco", 1e-4)
    same(output.sa1b_logits[..., None], "logits_sa1b", 1e-4)
    same(output.score, "scores_fused", 1e-5)
    torch.testing.assert_close(output.boxes, cxcywh_to_xyxy(recorded["pred_boxes"]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_accumulating_refinement_is_another_model(shared, proposer, states):
    model = RegionProposer(small_config(box_refinement="accumulate")).eval()
    model.load_state_dict(proposer.state_dict())
    difference = (model(states).layer_boxes[-1] - tensors(shared, "02_perceiver")["pred_boxes"]).abs().max()
    assert difference > 0.1


@pytest.mark.parametrize("source", ["coco", "sa1b"])
def test_detection_loss_and_gradients(shared, proposer, states, source):
    expected = results(shared)[f"40_det_loss_{source}"]
    targets = [cxcywh_to_xyxy(torch.tensor(label["boxes"])) for label in expected["labels"]]
    proposer.zero_grad(set_to_none=True)
    terms = detection_loss(proposer(states), targets, source)
    terms["loss"].backward()

    note("detection: loss (around 58)", abs(terms["loss"].item() - expected["loss"]), 2e-4)
    released = {"objectness": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}
    for suffix in ("", "_0", "_1", "_enc"):
        for ours, theirs in released.items():
            value = expected["loss_dict"][theirs + suffix]
            assert terms[ours + suffix].item() == pytest.approx(value, abs=2e-5), ours + suffix
    assert len(terms) == 1 + 3 * 4

    gradients = {name: p.grad for name, p in proposer.named_parameters() if p.grad is not None}
    norms = _renamed({f"perceiver.{name}": norm for name, norm in expected["grad_norms"].items()})
    assert norms.keys() == gradients.keys()
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), name
    recorded = _renamed({f"perceiver.{n}": g for n, g in tensors(shared, f"40_det_{source}_grads").items()})
    for name, gradient in recorded.items():
        difference = (gradients[name] - gradient).norm() / gradient.norm()
        note("detection: gradients, relative to their norm", difference.item(), 1e-3)


@torch.no_grad()
@pytest.mark.parametrize("source", ["coco", "sa1b"])
def test_hungarian_matches(shared, proposer, states, source, monkeypatch):
    key = next(key for key in claims(shared) if key.startswith(f"hungarian_{source}"))
    last, *earlier, encoder = claims(shared)[key]
    found = []
    original = loss_module._assign
    monkeypatch.setattr(loss_module, "_assign", lambda *given: found.append(original(*given)) or found[-1])
    labels = results(shared)[f"40_det_loss_{source}"]["labels"]
    detection_loss(proposer(states), [cxcywh_to_xyxy(torch.tensor(label["boxes"])) for label in labels], source)
    for (image, prediction, target), expected in zip(found[0], [*earlier, last, encoder], strict=True):
        for index, (queries, boxes) in enumerate(expected):
            pairs = set(zip(prediction[image == index].tolist(), target[image == index].tolist()))
            assert pairs == set(zip(queries, boxes))


def _renamed(released: dict) -> dict:
    names = {released: name for name in _names() for released in released_names(f"proposer.{name}")}
    return {names[name]: value for name, value in released.items()}


def _names() -> list[str]:
    return [name for name, _ in RegionProposer(small_config()).named_parameters()]
