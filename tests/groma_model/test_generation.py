from __future__ import annotations

import pytest
import torch
from small import picture, small_groma

from groma_model.boxes import iou_matrix
from groma_model.generation import Exchange, Query
from groma_model.processing import REFER

QUERIES = [
    Query("ground_one", "the red circle"),
    Query("ground_all", "a blue star that is left of two small red circles"),
    Query("describe", boxes=((0.1, 0.1, 0.4, 0.5),)),
    Query("converse", "what?"),
    Query("describe_scene"),
]


@pytest.fixture(scope="module", params=[True, False], ids=["pointer", "plain"])
def groma(request):
    return small_groma(pointer_head=request.param)


def test_neighbours_do_not_change_an_answer(groma):
    scene = groma.perceive(picture())
    together = groma.answer([scene], [QUERIES], 10)[0]
    for query, answer in zip(QUERIES, together, strict=True):
        alone = groma.answer([groma.perceive(picture())], [[query]], 10)[0][0]
        assert alone.raw == answer.raw
        assert alone.grounded.regions == answer.grounded.regions
        assert alone.grounded.confidences == pytest.approx(answer.grounded.confidences, abs=1e-5)


def test_a_batch_of_images_perceives_as_each_alone(groma):
    pictures = [picture(i, 80 + 40 * i, 120) for i in range(3)]
    for together, alone in zip(groma.perceive_batch(pictures), map(groma.perceive, pictures), strict=True):
        assert torch.allclose(together.boxes, alone.boxes, atol=1e-5)
        assert torch.allclose(together.region_tokens, alone.region_tokens, atol=1e-4)
        assert (together.width, together.height) == (alone.width, alone.height)


def test_cached_decoding_equals_running_the_whole_sequence_each_time(groma):
    """The plain definition: no cache, one sequence, the argmax of its last position."""
    scene = groma.perceive(picture(3))
    model, processor = groma.model, groma.processor
    answer = groma.answer([scene], [[QUERIES[1]]], 8)[0][0]
    count = len(scene.image_tokens)
    ids = processor.prefix_ids(count, len(scene.boxes))
    from groma_model.packing import feature_indices

    index = feature_indices(ids, processor.ids["<image>"], processor.ids["<region>"], -1, count)
    at_regions = [t for t, token in enumerate(ids) if token == processor.ids["<region>"]]
    ids = ids + processor.question_ids(f"locate all <p>{QUERIES[1].text}</p>")
    features = torch.cat([scene.image_tokens, scene.region_tokens])[None]
    produced = []
    with torch.inference_mode():
        for _ in range(8):
            full = index + [-1] * (len(ids) - len(index))
            embeddings = model.embed(torch.tensor([ids]), torch.tensor([full]), features, count)
            mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()[None, None]
            hidden = model.run_llm(embeddings, mask, torch.arange(len(ids))[None])[0]
            keys = None
            if model.pointer is not None:
                keys = model.pointer.keys(hidden[at_regions], scene.region_tokens)[None]
            token = int(model.logits(hidden[-1:], keys, torch.tensor([len(scene.boxes)])).argmax())
            if token == processor.eos_id:
                break
            produced.append(token)
            ids = [*ids, token]
    assert processor.decode(produced).strip() == answer.raw


def test_a_users_box_is_one_of_the_regions_it_is_asked_about(groma):
    box = (0.3, 0.2, 0.62, 0.81)
    answer = groma.answer([groma.perceive(picture())], [[Query("describe", boxes=(box,))]], 2)[0][0]
    overlaps = iou_matrix(torch.tensor([box]), torch.tensor(answer.regions))
    assert overlaps.max() > 0.999
    assert "<refer_box>" in answer.prompt


def test_a_dialogue_keeps_its_regions_when_a_new_box_renumbers_them(groma):
    scene = groma.perceive(picture())
    regions = tuple(tuple(b) for b in scene.boxes.tolist())
    history = (Exchange("what?", "<roi><r5></roi> red", (), regions),)
    box = (0.0, 0.0, 0.05, 0.05)
    asked = Query("converse", "and <box>?", (box,), history)
    answer = groma.answer([scene], [[asked]], 2)[0][0]
    renamed = int(answer.prompt.split("<roi><r")[1].split(">")[0])
    assert answer.regions[renamed] == pytest.approx(regions[5], abs=1e-6)


def test_chat_continues_and_history_replaces_it(groma):
    scene = groma.perceive(picture())
    scene.chat("what?", max_new_tokens=3)
    scene.chat("and <box>?", boxes=[(0.1, 0.2, 0.3, 0.4)], max_new_tokens=3)
    assert [e.question for e in scene.history] == ["what?", "and <box>?"]
    scene.chat("again", history=[("what?", "red")], max_new_tokens=3)
    assert len(scene.history) == 2
    with pytest.raises(ValueError, match="names 2 boxes, given are 1"):
        scene.chat("<box> or <box>?", boxes=[(0, 0, 1, 1)])


def test_two_boxes_in_one_question(groma):
    """Each is referred to by a region of its own, in the order given, here and when the dialogue goes on."""
    scene = groma.perceive(picture())
    boxes = ((0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.9, 0.8))
    placed = Query("converse", "is <box> above", boxes)  # the second is appended
    follow = Query("converse", "sure?", (), (Exchange("is <box> above <box>", "yes", boxes),))
    first, second = groma.answer([scene], [[placed, follow]], 2)[0]
    assert first.prompt.count(REFER) == second.prompt.count(REFER) == 2
    prefix = groma._prefixes(scene, [boxes])[boxes]
    for query in (placed, follow):
        job = groma._job(query, prefix)
        ids, refer = job.ids, job.refer
        assert [prefix.boxes[i] for i in refer] == [pytest.approx(box, abs=1e-6) for box in boxes]
        assert [ids[ids.index(groma.processor.region_ids[i]) + 2] for i in refer] == [
            groma.processor.ids["<refer_feat>"]
        ] * 2


def test_pointing_never_leaves_the_image(groma):
    if groma.model.pointer is None:
        pytest.skip("without a pointer head such tokens are dropped by the parser instead")
    scene = groma.perceive(picture())
    answers = groma.answer([scene], [QUERIES], 20)[0]
    assert all(a.grounded.dropped == 0 for a in answers)
