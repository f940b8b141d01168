"""Image encoder, proposal selection and region encoder against the released code's recorded outputs."""

from __future__ import annotations

import pytest
import torch
from fixture import close, released_weights, small_config, tensors

from groma_model import vision
from groma_model.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from groma_model.regions import RegionEncoder, select_regions, select_regions_batch
from groma_model.vision import ImageEncoder, merge_tokens


@pytest.fixture(scope="module")
def encoder(shared):
    encoder = ImageEncoder(small_config()).eval()
    encoder.load_state_dict(released_weights(shared, "vision_encoder"))
    return encoder


@pytest.fixture(scope="module")
def region_encoder(shared):
    encoder = RegionEncoder(small_config()).eval()
    encoder.load_state_dict(released_weights(shared, "region_encoder"))
    return encoder


@pytest.fixture(scope="module")
def recorded_states(shared):
    recorded = tensors(shared, "01_vit")
    return [recorded[f"vit.hidden_states.{i}"][:, 1:] for i in range(7)]


@torch.no_grad()
def test_all_hidden_states_of_the_image_encoder(shared, encoder, recorded_states):
    states = encoder(tensors(shared, "01_vit")["pixel_values"])
    assert len(states) == len(recorded_states)
    for ours, theirs in zip(states, recorded_states):
        close(ours, theirs, 1e-4, "image encoder: hidden states")


@torch.no_grad()
def test_interpolation_to_size_is_a_different_arithmetic(shared, encoder, recorded_states):
    positions = encoder.model.embeddings.position_embeddings[0]
    factor = vision.interpolate_positions(positions, 32, "scale_factor")
    size = vision.interpolate_positions(positions, 32, "size")
    assert (factor - size).abs().max().item() == pytest.approx(0.36679697, abs=1e-5)


def test_merged_image_tokens(shared, recorded_states):
    assert torch.equal(merge_tokens(recorded_states[-1]), tensors(shared, "04_bridge")["merged_image_features"])


def test_selection(shared):
    recorded = tensors(shared, "03_selection")
    stacked = [torch.stack([recorded[f"{name}.{i}"] for i in (0, 1)]) for name in ("boxes_xyxy", "scores")]
    batch = select_regions_batch(*stacked, small_config())
    for i in (0, 1):
        boxes, scores, keep = (recorded[f"{name}.{i}"] for name in ("boxes_xyxy", "scores", "keep_before_randperm"))
        for selection in (batch[i], select_regions(boxes, scores, small_config())):
            assert torch.equal(selection.boxes, boxes[keep])
            assert torch.equal(selection.scores, scores[keep])
            close(xyxy_to_cxcywh(selection.boxes), recorded[f"selected_boxes.{i}"], 1e-6, "selection: boxes")


@torch.no_grad()
def test_region_encoder_stage_by_stage(shared, region_encoder, recorded_states):
    recorded = tensors(shared, "05_region_given")
    given = [cxcywh_to_xyxy(recorded[f"boxes.{i}"]) for i in (0, 1)]
    # The recording holds the resized states; ours are mixed before they are resized, so the two meet after the fusion.
    states = [tokens.transpose(1, 2).reshape(2, 64, 32, 32) for tokens in recorded_states]
    close(states[-1], recorded["fuse_in.level2"], 1e-6, "region encoder: level 2 before fusion")
    close(
        region_encoder._resize(states[-3], 128)[:, ::8],
        recorded["fuse_in.level0(sub)"],
        1e-5,
        "region encoder: level 0 before fusion",
    )
    maps = region_encoder.fuse(region_encoder.feature_maps(recorded_states))
    close(
        maps[0][:, ::8, ::4, ::4],
        recorded["fuse_out.level0(channels 0::8, spatial ::4)"],
        1e-4,
        "region encoder: fused maps",
    )
    close(
        maps[1][:, ::8, ::2, ::2],
        recorded["fuse_out.level1(channels 0::8, spatial ::2)"],
        1e-4,
        "region encoder: fused maps",
    )
    close(maps[2], recorded["fuse_out.level2"], 1e-4, "region encoder: fused maps")
    index = torch.tensor([0] * 6 + [1] * 3)
    for level in range(3):
        pooled = region_encoder.align(maps[level], torch.cat(given), index)
        close(pooled[:, ::4], recorded[f"roi_feats.level{level}(channels 0::4)"], 1e-4, "region encoder: RoIAlign")
    flat = region_encoder.pool(region_encoder.roi_features(maps, torch.cat(given), index).flatten(1))
    close(flat, recorded["flatten_linear"], 5e-4, "region encoder: pooled")
    boxes = torch.cat([recorded["boxes.0"], recorded["boxes.1"]])
    close(region_encoder.box_embed(boxes), recorded["pos_embedd"], 1e-5, "region encoder: box embedding")
    expected = torch.cat([recorded["region_features.0"], recorded["region_features.1"]])
    close(region_encoder(recorded_states, given), expected, 5e-4, "region encoder: features")


@torch.no_grad()
def test_corrected_geometry_reads_other_features(shared, region_encoder, recorded_states):
    """The same weights with boxes read as they are differ by far more than the tolerance: the test above sees it."""
    recorded = tensors(shared, "05_region_given")
    given = [cxcywh_to_xyxy(recorded[f"boxes.{i}"]) for i in (0, 1)]
    corrected = RegionEncoder(small_config(box_geometry="xyxy")).eval()
    corrected.load_state_dict(region_encoder.state_dict())
    expected = torch.cat([recorded["region_features.0"], recorded["region_features.1"]])
    assert (corrected(recorded_states, given) - expected).abs().max() > 0.5
