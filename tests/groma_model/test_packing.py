from __future__ import annotations

import torch
from small import picture, small_groma

from groma_model.modeling import IGNORE
from groma_model.packing import Turn, pack


def test_a_packed_block_computes_what_it_would_compute_alone():
    groma = small_groma()
    model, processor = groma.model, groma.processor
    scenes = [groma.perceive(picture(i)) for i in range(2)]
    count = len(scenes[0].image_tokens)

    def turn(text: str, answer: str) -> Turn:
        return Turn(processor.question_ids(text), processor.answer_ids(answer), [])

    blocks = [
        [[turn("what?", "red")], [turn("how many circles?", "two red circles"), turn("and?", "no")]],
        [[turn("describe the image.", "a small star")]],
    ]
    ids = processor.ids
    placeholders = (ids["<image>"], ids["<region>"], ids["<refer_feat>"])

    def hidden(which: list[int], dialogues: list) -> tuple:
        counts = [len(scenes[i].boxes) for i in which]
        packed = pack([processor.prefix_ids(count, n) for n in counts], dialogues, placeholders, count,
                      ids["[PAD]"], counts)  # fmt: skip
        features = torch.stack([torch.cat([scenes[i].image_tokens, scenes[i].region_tokens]) for i in which])
        with torch.no_grad():
            embeddings = model.embed(packed.ids, packed.feature_index, features, count)
            return packed, model.run_llm(embeddings, packed.mask(), packed.positions)

    packed, together = hidden([0, 1], blocks)
    for image, number in ((0, 1), (0, 2), (1, 1)):
        alone_packed, alone = hidden([image], [[blocks[image][number - 1]]])
        mine = together[image][packed.segment[image] == number]
        assert torch.allclose(mine, alone[0][alone_packed.segment[0] == 1], atol=1e-4)
        # Alone there is nothing to hide but the future: an ordinary causal mask.
        size = alone.shape[1]
        features = torch.cat([scenes[image].image_tokens, scenes[image].region_tokens])[None]
        with torch.no_grad():
            embeddings = model.embed(alone_packed.ids, alone_packed.feature_index, features, count)
            causal = torch.ones(1, 1, size, size, dtype=torch.bool).tril()
            plain = model.run_llm(embeddings, causal, alone_packed.positions)
        assert torch.allclose(alone, plain, atol=1e-4)
        labels = packed.labels[image][packed.segment[image] == number]
        assert torch.equal(labels, alone_packed.labels[0][alone_packed.segment[0] == 1])


def test_labels_are_the_answers_and_nothing_else():
    turn = Turn([5, 6, 7], [8, 9, 2], [])
    packed = pack([[1, 3]], [[[turn, turn]]], (90, 91, 92), 0, 0, [0])
    assert packed.ids[0].tolist() == [1, 3, 5, 6, 7, 8, 9, 2, 5, 6, 7, 8, 9, 2]
    expected = [IGNORE] * 4 + [8, 9, 2, IGNORE] + [IGNORE] * 2 + [8, 9, 2, IGNORE]
    assert packed.labels[0].tolist() == expected
    predicted = [i for i, label in enumerate(expected) if label != IGNORE]
    assert [packed.ids[0, i + 1].item() for i in predicted] == [8, 9, 2, 8, 9, 2]
    assert packed.positions[0].tolist() == list(range(14))


def test_weights_are_the_turns_times_the_pointers():
    turns = [[Turn([5, 6], [8, 50, 2], [], 3.0)], [Turn([5, 6], [51, 2], [])]]
    packed = pack([[1]], [turns], (90, 91, 92), 0, 0, [0], pointer_weight=2.0, first_region_id=50)
    weighed = packed.weights[0][packed.labels[0] != IGNORE].tolist()
    assert packed.labels[0][packed.labels[0] != IGNORE].tolist() == [8, 50, 2, 51, 2]
    assert weighed == [3.0, 6.0, 3.0, 2.0, 1.0]
