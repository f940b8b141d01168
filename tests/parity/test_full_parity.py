"""The whole model, loaded from the released layout, against the released code: forward, generation, training."""

from __future__ import annotations

import pytest
import torch
from fixture import close, note, results, tensors

from groma_model.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from groma_model.checkpoints import load_checkpoint
from groma_model.data.samples import DialogueTurn
from groma_model.generation import Groma, Query, Scene
from groma_model.packing import feature_indices
from groma_model.regions import reorder
from groma_model.released import released_names
from groma_model.training.recipe import Recipe
from groma_model.training.stages import LanguageStage

TEMPLATE = {"grounding": "[grounding]Describe the image in detail.", "refer1": "What is {box}?",
            "rec": "Locate <p>{text}</p> in the image."}  # fmt: skip
REFER = "<roi><refer_box></roi><refer_feat>"
#: File -> (prompt, image, score threshold, user's boxes)
FORWARD = {
    "10_forward_grounding": ("grounding", 0, 0.15, None),
    "11_forward_grounding_reversed_perm": ("grounding", 0, 0.15, None),
    "12_forward_refer1": ("refer1", 0, 0.15, "refer1"),
    "13_forward_refer2_img1": ("refer2", 1, 0.15, "refer2"),
    "14_forward_fallback_nothing_passes": (None, 0, 0.999, None),
    "15_forward_thres0": (None, 0, 0.0, None),
}


@pytest.fixture(scope="module")
def loaded(shared):
    model, processor = load_checkpoint(shared / "parity" / "small" / "checkpoint")
    assert model.config.compatibility == "released"
    model.config.region_order = "score"  # the recordings use the identity permutation
    return model.eval(), processor


@pytest.fixture
def groma(loaded):
    model, processor = loaded
    model.config.score_threshold = 0.15
    return Groma(model, processor)


def question_of(prompt: str) -> str:
    """The last user turn of a recorded prompt."""
    return prompt.rpartition("USER: ")[2].removesuffix(" ASSISTANT:")


@torch.no_grad()
@pytest.mark.parametrize("name", FORWARD)
def test_forward(shared, groma, name):
    key, image, threshold, user = FORWARD[name]
    recorded, summary = tensors(shared, name), results(shared)
    model, processor = groma.model, groma.processor
    model.config.score_threshold = threshold
    pixels = tensors(shared, "01_vit")["pixel_values"][image : image + 1]
    boxes = cxcywh_to_xyxy(torch.tensor(summary["refer_boxes"][user])) if user else None
    states, _, (selection,) = model.propose(pixels, [boxes])
    if "randperm.0" in recorded:
        selection = reorder(selection, recorded["randperm.0"])
    # Boxes of the user all score 1: the reference's sort leaves their order open.
    distance = (xyxy_to_cxcywh(selection.boxes)[:, None] - recorded["selected_boxes.0"]).abs().amax(-1)
    order = distance.argmin(0)
    assert torch.equal(selection.scores[order], selection.scores)
    selection = reorder(selection, order)
    close(xyxy_to_cxcywh(selection.boxes), recorded["selected_boxes.0"], 1e-5, "boxes of kept regions")
    regions = model.encode_regions(model.region_encoder.fused_maps(states), [selection.boxes])[0]
    close(regions, recorded["region_features"], 5e-4, "region features, whole path")

    images = model.image_tokens(states)
    count = images.shape[1]
    refer = selection.user_index.tolist()
    if key is None:  # the two short cases do not name their prompt: it is the recorded ids that do
        key = next(k for k, ids in summary["prompt_ids"].items() if ids == recorded["input_ids_before"][0].tolist())
    question = question_of(summary["prompts"][key])
    ids = processor.prefix_ids(count, len(regions)) + processor.question_ids(question, refer)
    assert ids == recorded["expanded_input_ids"][0].tolist()
    names = processor.ids
    index = feature_indices(ids, names["<image>"], names["<region>"], names["<refer_feat>"], count, refer)
    features = torch.cat([images[0], regions])[None]
    embeddings = model.embed(torch.tensor([ids]), torch.tensor([index]), features, count)
    close(embeddings, recorded["inputs_embeds"], 5e-4, "input embeddings")
    causal = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool).tril()
    hidden = model.run_llm(embeddings, causal, torch.arange(len(ids))[None])
    close(model.logits(hidden[0])[None], recorded["logits"], 1e-3, "logits of the forward pass")


@pytest.mark.parametrize(
    ("name", "prompt", "image", "user"),
    [
        ("20_generate_grounding", "grounding", 0, None),
        ("21_generate_refer1", "refer1", 0, "refer1"),
        ("22_generate_refer2_img1", "refer2", 1, "refer2"),
        ("23_generate_rec_img1", "rec", 1, None),
    ],
)
def test_generation(shared, groma, name, prompt, image, user):
    """Greedy ids, eight steps; one question with its boxes through the public path."""
    recorded, summary = tensors(shared, name), results(shared)
    pixels = tensors(shared, "01_vit")["pixel_values"][image : image + 1]
    scene = perceived(groma, pixels)
    boxes = cxcywh_to_xyxy(torch.tensor(summary["refer_boxes"][user])).tolist() if user else []
    text = question_of(summary["prompts"][prompt]).replace(REFER, "{box}")
    query = Query("converse", None, tuple(map(tuple, boxes)), (), text)
    answer = groma.answer([scene], [[query]], 8)[0][0]
    new = recorded["sequences"][0, -8:].tolist()
    assert new == summary[name]["new_tokens"]
    assert answer.raw == groma.processor.decode(new).strip()
    regions = xyxy_to_cxcywh(torch.tensor(answer.regions))
    if len(boxes) > 1:  # they score alike: the reference's sort leaves their order open, and its answer names neither
        regions = regions[(regions[:, None] - recorded["pred_boxes"]).abs().amax(-1).argmin(0)]
    close(regions, recorded["pred_boxes"], 1e-5, "boxes of generated answers")


def perceived(groma: Groma, pixels: torch.Tensor) -> Scene:
    """A scene from the recorded pixels (448 x 448, already normalised)."""
    original = groma.processor.pixel_values
    groma.processor.pixel_values = lambda images, **_: pixels
    try:
        from PIL import Image

        return groma.perceive(Image.new("RGB", (448, 448)))
    finally:
        groma.processor.pixel_values = original


@pytest.mark.parametrize("name", ["30_train_ground_ground", "31_train_ground_refer"])
def test_training_loss_and_gradients(shared, name):
    """Two images, one dialogue each: loss and gradients, ours in float64.

    In float32 the gradients below the fusion's ReLUs wander by 3e-3 of their norm with the order of summation; against
    float64 the recording (float32) is off by at most 6e-4.
    """
    model, processor = load_checkpoint(shared / "parity" / "small" / "checkpoint", torch.float64)
    model.config.region_order = "score"
    model.eval()
    recorded, summary = tensors(shared, name), results(shared)
    entry = summary[name]
    prompts = [summary["train_prompts"][k] for k in ("AB" if name.startswith("30") else "AC")]
    recipe = Recipe("instruct", 1, 2, 1e-4, ("projector", "region_encoder", "llm", "new_token_embeddings",
                    "new_token_head"), loss={"pointer_weight": 1.0})  # fmt: skip
    stage = LanguageStage(model, processor, recipe)
    for key, module in model.named_children():
        module.requires_grad_(key in recipe.trainable)
    pixels = tensors(shared, "01_vit")["pixel_values"].double()
    users, grounds = (
        [cxcywh_to_xyxy(torch.tensor(b).view(-1, 4)) for b in entry[k]] for k in ("refer_boxes", "ground_boxes")
    )
    with torch.no_grad():
        states, _, selections = model.propose(pixels, users, grounds)
    selections = [reorder(s, recorded[f"randperm.{i}"]) for i, s in enumerate(selections)]
    for i, selection in enumerate(selections):
        close(xyxy_to_cxcywh(selection.boxes), recorded[f"selected_boxes.{i}"], 1e-5, "boxes of kept regions")
    regions = model.encode_regions(model.region_encoder.fused_maps(states), [s.boxes for s in selections])
    images = model.image_tokens(states)
    dialogues = []
    for prompt, user, ground in zip(prompts, users, grounds, strict=True):
        question, _, answer = prompt.rpartition("USER: ")[2].partition(" ASSISTANT: ")
        answer = answer.replace("<sep>", "").removesuffix("</s>")
        box = tuple(user[0].tolist()) if len(user) else None
        dialogues.append([(DialogueTurn(question, answer, box, tuple(tuple(b) for b in ground.tolist())),)])
    packed = stage.pack(dialogues, [[1.0], [1.0]], selections, images.shape[1])
    for i in range(2):
        known = packed.segment[i] >= 0
        ids = recorded["expanded_input_ids"][i]
        assert packed.ids[i][known].tolist() == ids[recorded["attention_mask"][i].bool()].tolist()
    losses = stage.language_loss(packed, images, regions)
    note("training loss", abs(losses["loss"].item() - entry["loss"]), 1e-5)
    losses["loss"].backward()
    theirs = {released: n for n, _ in model.named_parameters() for released in released_names(n)}
    gradients = dict(model.named_parameters())
    checked = 0
    for released, norm in entry["grad_norms"].items():
        ours = gradients[theirs[released]].grad
        assert (0.0 if ours is None else ours.norm().item()) == pytest.approx(norm, rel=1e-3, abs=1e-5), released
        checked += 1
    assert checked == entry["n_params_with_grad"]
    for released, gradient in tensors(shared, f"{name}_grads").items():
        ours = gradients[theirs[released]].grad
        # Large gradients are recorded flat, every n-th element.
        ours = ours.flatten()[:: -(-ours.numel() // gradient.numel())]
        note("gradients, relative to their norm", ((ours - gradient.flatten()).norm() / gradient.norm()).item(), 1e-3)
