"""Attention behind shared prefixes, guesses, and the memory that decoding takes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import picture, small_groma

from groma_model import decoding, generation, prefixes
from groma_model.configuration import preset
from groma_model.generation import Exchange, Query
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.ops.attention import attention
from groma_model.ops.tree_attention import Row, TreeCache, group_rows

BOX = (0.3, 0.2, 0.62, 0.81)
QUERIES = [
    Query("ground_one", "the red circle"),
    Query("ground_all", "a blue star that is left of two small red circles"),
    Query("describe", boxes=(BOX,)),
    Query("describe", boxes=((0.1, 0.1, 0.4, 0.5),)),
    Query("converse", "is <box> red?", (BOX,), (Exchange("what?", "two stars"),)),
    Query("describe_scene"),
]


@pytest.fixture(scope="module")
def groma():
    return small_groma()


def ask(groma, pictures=2, new_tokens=8):
    """Raw answers and confidences of all questions about each of some new scenes."""
    scenes = groma.perceive_batch([picture(i) for i in range(pictures)])
    # The first picture is asked everything, the others less and less.
    queries = [QUERIES[i:] for i in range(pictures)]
    answers = [a for asked in groma.answer(scenes, queries, new_tokens) for a in asked]
    return [a.raw for a in answers], [c for a in answers for c in a.grounded.confidences]


def same(found, expected):
    assert found[0] == expected[0]
    assert found[1] == pytest.approx(expected[1], abs=1e-5)


# ------------------------------------------------------------------ attention
@given(st.lists(st.integers(1, 50), max_size=12), st.floats(1.0, 3.0))
def test_rows_are_grouped_within_the_padding_allowed(sizes, padding):
    groups = group_rows(sizes, padding)
    assert sorted(place for group in groups for place in group) == list(range(len(sizes)))
    for group in groups:
        held = [sizes[place] for place in group]
        assert held == sorted(held, reverse=True)
        assert len(held) * held[0] <= padding * sum(held) + 1e-9


@pytest.mark.parametrize("padding", [1.0, 100.0], ids=["alone", "padded"])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_block_attends_to_its_share_of_the_prefix_and_to_itself(padding, key_heads):
    """Three steps beside plain attention, token by token; a token of the second is replaced in the third."""
    torch.manual_seed(0)
    heads, dim, scale = 4, 8, 0.3
    lengths, shares = [[3, 1], [2], [1, 4, 2]], [[5, 5], [7], [2, 6, 0]]

    def prefix(length):
        return [tuple(torch.randn(key_heads, length, dim) for _ in range(2))]

    rows = [Row(prefix(5 + r), s, n) for r, (n, s) in enumerate(zip(lengths, shares, strict=True))]
    groups = group_rows([row.tokens for row in rows], padding)
    cache = TreeCache([[rows[r] for r in group] for group in groups], 4, torch.device("cpu"))
    own = {(r, b): [] for r in range(3) for b in range(len(lengths[r]))}  # keys and values of each block's tokens
    module = torch.nn.Module()
    module.layer_idx = 0
    steps = [
        {(r, b): (0, n) for r, ns in enumerate(lengths) for b, n in enumerate(ns)},
        {(0, 1): (1, 2), (2, 0): (1, 1), (2, 2): (2, 1)},
        {(0, 1): (2, 1), (2, 2): (3, 2)},
    ]
    for step in steps:
        fed = [[(i, b, *step[r, b]) for i, r in enumerate(g) for b in range(len(lengths[r])) if (r, b) in step]
               for g in groups]  # fmt: skip
        order = [(groups[g][i], b, first, n) for g, segments in enumerate(fed) for i, b, first, n in segments]
        total = sum(n for *_, n in order)
        query, key, value = (torch.randn(1, h, total, dim) for h in (heads, key_heads, key_heads))
        out, _ = attention(module, query, key, value, None, scale, tree=cache.step(fed))
        at = 0
        for r, b, first, n in order:
            del own[r, b][first:]
            for t in range(at, at + n):
                own[r, b].append((key[0, :, t], value[0, :, t]))
                share = shares[r][b]
                seen = [torch.cat([rows[r].prefix[0][w][:, :share], torch.stack([kv[w] for kv in own[r, b]], 1)], 1)
                        .repeat_interleave(heads // key_heads, 0) for w in (0, 1)]  # fmt: skip
                weights = (scale * (seen[0] @ query[0, :, t, :, None])[..., 0]).softmax(-1)
                assert torch.allclose(out[0, t], (weights[..., None] * seen[1]).sum(1), atol=1e-5)
            at += n


def test_rows_padded_to_each_other_answer_the_same(groma, monkeypatch):
    expected = ask(groma, 3)
    monkeypatch.setattr(decoding, "row_padding", lambda device: 100.0)
    same(ask(groma, 3), expected)


def test_fewer_heads_of_keys_answer_as_each_question_alone():
    groma = small_groma(llm_config=preset("nano").llm_config.to_dict() | {"num_key_value_heads": 2})
    together = ask(groma, 1)
    alone = [groma.answer([groma.perceive(picture(0))], [[query]], 8)[0][0] for query in QUERIES]
    same(together, ([a.raw for a in alone], [c for a in alone for c in a.grounded.confidences]))


# ------------------------------------------------------------------ guesses
def test_no_guess_changes_an_answer(groma, monkeypatch):
    monkeypatch.setattr(decoding, "guess_next", lambda *_: [])
    passes, run = [], groma.model.run_llm
    monkeypatch.setattr(groma.model, "run_llm", lambda *args: passes.append(1) or run(*args))
    expected = ask(groma)
    without = len(passes)

    monkeypatch.setattr(decoding, "guess_next", lambda produced, *_: [7 + len(produced), 9, 11])
    same(ask(groma), expected)

    scenes = groma.perceive_batch([picture(i) for i in range(2)])
    decode, ids = groma._decode, []
    with monkeypatch.context() as patch:
        patch.setattr(groma, "_decode", lambda *args: ids.extend(found := decode(*args)) or found)
        groma.answer(scenes, [QUERIES, QUERIES[1:]], 8)

    def oracle(produced, *_):
        """What one of the answers goes on with: often right, often right for a while."""
        n = len(produced)
        return next((list(a[n : n + 3]) for a, _ in ids if n and a[:n] == produced), ids[-1][0][:2] if not n else [])

    monkeypatch.setattr(decoding, "guess_next", oracle)
    passes.clear()
    same(ask(groma), expected)
    assert len(passes) < without


def test_what_is_guessed():
    names, first = {"</p>": 1, "<roi>": 2, "</roi>": 3}, 10
    assert decoding.guess_next([], True, names, first) == [2]
    assert decoding.guess_next([], False, names, first) == []
    assert decoding.guess_next([5, 1], False, names, first) == [2]
    assert decoding.guess_next([2, 12], False, names, first) == [3]
    assert decoding.guess_next([2, 12, 3], True, names, first) == []


# ------------------------------------------------------------------ prefixes
def test_a_users_box_shares_the_prefix_up_to_the_first_region_that_differs(groma):
    scene = groma.perceive(picture())
    regions = [tuple(box) for box in scene.boxes.tolist()]
    # The user's box is the first region, so that what is shared ends there; the best region itself changes nothing.
    for box, shared_regions in ((BOX, 0), (regions[0], len(regions))):
        found = groma._prefixes(scene, [(box,)])
        own, prefix = found[()], found[(box,)]
        assert prefix.shared_regions == shared_regions
        inputs = []
        for p in (own, prefix):
            features = torch.cat([scene.image_tokens, p.region_tokens])[None]
            index = torch.tensor([p.feature_index])
            inputs.append(groma.model.embed(torch.tensor([p.ids]), index, features, len(scene.image_tokens))[0])
        common = min(map(len, inputs))
        equal = (inputs[0][:common] == inputs[1][:common]).all(-1).tolist()
        assert prefix.shared == (equal.index(False) if False in equal else common)


def test_only_regions_that_are_new_are_encoded_and_pictures_are_prefilled_together(groma, monkeypatch):
    scenes = groma.perceive_batch([picture(i) for i in range(3)])
    encoded, passes = [], []
    encode, run = groma.model.encode_regions, groma.model.run_llm
    monkeypatch.setattr(groma.model, "encode_regions", lambda m, b: encoded.append(len(b[0])) or encode(m, b))
    monkeypatch.setattr(groma.model, "run_llm", lambda e, *args: passes.append(len(e)) or run(e, *args))
    groma.answer(scenes, [[QUERIES[0], QUERIES[2], QUERIES[3]]] * 3, 1)
    assert len(encoded) == 3
    assert all(2 <= count < len(scene.boxes) for count, scene in zip(encoded, scenes, strict=True))
    assert passes == [3, 1]
    groma.answer(scenes, [QUERIES[:2]] * 3, 1)  # the scenes have kept their prefixes
    assert passes == [3, 1, 1]


def test_prefixes_of_different_lengths_are_padded_a_little(groma, monkeypatch):
    scenes = groma.perceive_batch([picture(i) for i in range(4)])
    for scene, count in zip(scenes, (30, 29, 12, 3), strict=True):
        scene.boxes, scene.region_tokens = scene.boxes[:count], scene.region_tokens[:count]
    together = groma.answer(scenes, [QUERIES[:2]] * 4, 6)
    for scene in scenes:
        scene._stem = None
    monkeypatch.setattr(prefixes, "PADDING", 1.0)
    alone = [groma.answer([scene], [QUERIES[:2]], 6)[0] for scene in scenes]
    assert [[a.raw for a in asked] for asked in together] == [[a.raw for a in asked] for asked in alone]


# ------------------------------------------------------------------ memory
def held(scenes):
    """Bytes of the scenes' prefixes."""
    layers = [layer for scene in scenes if scene._stem is not None for layer in scene._stem.layers]
    return sum(tensor.nbytes for layer in layers for tensor in layer)


@pytest.mark.parametrize("questions", [1, 4, 9])
def test_caches_stay_within_the_room_there_is(groma, monkeypatch, questions):
    scenes = groma.perceive_batch([picture(i) for i in range(3)])
    queries = [[Query("ground_one", "red circle " * n) for n in range(1, 6)] for _ in scenes]
    expected = [[a.raw for a in asked] for asked in groma.answer(scenes, queries, 6)]
    assert all(scene._stem is not None for scene in scenes)
    for scene in scenes:
        scene._stem = None
    llm = groma.config.llm_config
    longest = groma._prefixes(scenes[0], [])[()].length
    room = (2 * longest + questions * 25) * 2 * llm.num_hidden_layers * llm.hidden_size * 4
    seen = []

    class Spied(TreeCache):
        def __init__(self, *args):
            super().__init__(*args)
            stored = [tensor.nbytes for group in self.groups for layer in group.layers for tensor in layer]
            seen.append(sum(stored) + held(scenes))

    monkeypatch.setattr(decoding, "TreeCache", Spied)
    monkeypatch.setattr(generation, "CACHE_BYTES", room)
    assert [[a.raw for a in asked] for asked in groma.answer(scenes, queries, 6)] == expected
    assert len(seen) > 1
    assert max(seen) <= room
    assert all(scene._stem is None for scene in scenes)


def test_a_pass_holds_no_more_tokens_than_allowed(groma, monkeypatch):
    expected = ask(groma, 3)
    lengths, run = [], groma.model.run_llm
    monkeypatch.setattr(
        groma.model, "run_llm", lambda e, *args: lengths.append(e.shape[0] * e.shape[1]) or run(e, *args)
    )
    monkeypatch.setattr(generation, "PASS_TOKENS", 150)
    monkeypatch.setattr(prefixes, "PASS_TOKENS", 150)
    same(ask(groma, 3), expected)
    assert max(lengths) <= 150


@torch.inference_mode()
def test_half_precision_heads_are_widened_once_an_answer(monkeypatch):
    groma = small_groma()
    groma.model.to(torch.bfloat16).proposer.float()
    heads, calls = groma.model._heads, []
    monkeypatch.setattr(groma.model, "_heads", lambda: calls.append(1) or heads())
    answered = ask(groma, 1)
    assert len(calls) == 1
    monkeypatch.setattr(GromaForConditionalGeneration, "widened_heads", lambda self: torch.inference_mode())
    same(ask(groma, 1), answered)
    assert len(calls) > 2
    hidden = torch.randn(3, groma.config.llm_config.hidden_size).bfloat16()
    weight = torch.cat([groma.model.llm.lm_head.weight, groma.model.new_token_head.weight])
    assert torch.allclose(groma.model.logits(hidden), (hidden.double() @ weight.double().T).float(), atol=1e-5)


@pytest.mark.parametrize("implementation", ["groma", "sdpa"])
def test_threads_may_ask_one_model(groma, monkeypatch, implementation):
    """Behind prefixes another implementation of attention gives way to this package's for as long as a pass takes."""
    expected = ask(groma, 1)
    monkeypatch.setattr(groma.config.llm_config, "_attn_implementation", implementation)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: ask(groma, 1), range(8)):
            same(found, expected)
    assert groma.config.llm_config._attn_implementation == implementation
