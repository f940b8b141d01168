"""A released detector (image encoder and proposer alone): its own checkpoint gives the whole model's proposals."""

from __future__ import annotations

import json

import pytest
import torch
from fixture import tensors
from PIL import Image
from safetensors.torch import load_file, save_file

from groma_eval.core import Decoding, HarnessError, Question, Sample
from groma_eval.models.groma import GromaAdapter
from groma_model import Detector
from groma_model.boxes import xyxy_to_cxcywh
from groma_model.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    """The detector's part of the small checkpoint, in the layout of the released detector."""
    small = shared / "parity" / "small" / "checkpoint"
    folder = tmp_path_factory.mktemp("detector")
    values = json.loads((small / "config.json").read_text())["perceiver_cfg"]
    assert values["model_type"] == "ddetr"
    (folder / "config.json").write_text(json.dumps({**values, "architectures": ["CustomDDETRModel"]}))
    found = load_file(small / "model.safetensors")
    kept = {name.removeprefix("perceiver."): t for name, t in found.items() if name.startswith("perceiver.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def detector(folder):
    return Detector.from_pretrained(folder, device="cpu")


@torch.no_grad()
def test_proposals_are_the_recorded_ones(shared, detector):
    recorded = tensors(shared, "02_perceiver")
    _, proposals, _ = detector.model.propose(tensors(shared, "01_vit")["pixel_values"])
    assert (xyxy_to_cxcywh(proposals.boxes) - recorded["pred_boxes"]).abs().max() <= 1e-5
    assert (proposals.score - recorded["scores_fused"]).abs().max() <= 1e-5


def test_the_harness_asks_it_for_proposals_only(folder, tmp_path):
    adapter = GromaAdapter.load(str(folder), name="detector", device="cpu")
    assert adapter.info.capabilities == {"propose"}
    path = tmp_path / "a.png"
    Image.effect_noise((64, 48), 50).save(path)
    sample = Sample("a", path, 64, 48, (Question("1", "propose"),))
    (answer,) = adapter.answer([sample], Decoding(), {}, "paper")
    assert len(answer.proposals) == len(answer.objectness) == 30
    assert answer.objectness == sorted(answer.objectness, reverse=True)


def test_what_a_detector_cannot_do_is_one_line(folder, tmp_path):
    with pytest.raises(ValueError, match=r"is a detector .* which answers no questions"):
        load_checkpoint(folder)
    with pytest.raises(HarnessError, match="no language model to load with quantization"):
        GromaAdapter.load(str(folder), name="d", model_args={"quantization": "4bit"})
    with pytest.raises(ValueError, match=r"is no detector \(model_type 'groma'\)"):
        Detector.from_pretrained("groma-tiny")


def test_a_lost_tensor_is_named_as_the_file_names_it(folder, tmp_path):
    kept = load_file(folder / "model.safetensors")
    del kept["vis_encoder.embeddings.cls_token"]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks tensors: vis_encoder.embeddings.cls_token \(1 in all\)"):
        Detector.from_pretrained(tmp_path, device="cpu")
