"""The released tokenizer on a hand-made sentencepiece model, with ids found by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from groma_model.checkpoints import BUNDLED
from groma_model.configuration import GromaConfig
from groma_model.processing import TEMPLATES, GromaProcessor, load_tokenizer
from groma_model.released_tokenizer import merges, read_pieces, released_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
#: Piece -> score, after <unk>, <s>, </s> and the 256 bytes.
PIECES = {
    "ab": -1, "▁ab": -2, "bc": -3, ">.": -4, ">é": -5, "▁▁": -1e9, "▁▁▁": -1e9,
    **dict.fromkeys(["▁", "a", "b", "c", ".", "é", "<", "u", "n", "k", ">", "p"], -100),
}  # fmt: skip
ALL = [("<unk>", 0, UNKNOWN), ("<s>", 0, CONTROL), ("</s>", 0, CONTROL)]
ALL += [(f"<0x{b:02X}>", 0, BYTE) for b in range(256)]
ALL += [(text, score, NORMAL) for text, score in PIECES.items()]
ID = {text: i for i, (text, _, _) in enumerate(ALL)}
BASE = len(ALL)


def config(template: str = "llava") -> GromaConfig:
    return GromaConfig(llm_config={"model_type": "llama", "vocab_size": BASE}, max_regions=2, prompt_template=template)


for _i, _token in enumerate(config().new_tokens):
    ID[_token] = BASE + _i


def varint(number: int) -> bytes:
    head, rest = number & 127, number >> 7
    return bytes([head | 128]) + varint(rest) if rest else bytes([head])


def field(number: int, value: int | float | bytes | str) -> bytes:
    """One field of a protocol buffer message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(values: dict[int, int | float | bytes | str]) -> bytes:
    return b"".join(field(number, value) for number, value in values.items())


def write_model(path: Path, pieces=ALL, trainer=None, normalizer=None) -> None:
    trainer = {3: 2, 4: len(pieces), 35: 1} | (trainer or {})
    normalizer = {1: "identity", 2: b"", 3: 1, 4: 0} | (normalizer or {})
    data = b"".join(field(1, message({1: text, 2: float(score), 3: kind})) for text, score, kind in pieces)
    path.write_bytes(data + field(2, message(trainer)) + field(3, message(normalizer)))


def write(folder: Path, legacy: bool | None = False) -> Path:
    """A complete tokenizer."""
    folder.mkdir(exist_ok=True)
    write_model(folder / "tokenizer.model")
    (folder / "added_tokens.json").write_text(json.dumps({t: ID[t] for t in sorted(config().new_tokens)}))
    flag = {} if legacy is None else {"legacy": legacy}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"} | flag))
    return folder


@pytest.fixture(params=["built", "reloaded"])
def tokenizer(request, tmp_path):
    """A function from the legacy flag to the tokenizer, also after saving and loading it."""

    def make(legacy):
        built = released_tokenizer(write(tmp_path / "released", legacy), config())
        if request.param == "built":
            return built
        built.save_pretrained(tmp_path / "native")
        return load_tokenizer(tmp_path / "native")

    return make


def ids(*pieces: str) -> list[int]:
    return [ID[p] for p in pieces]


@pytest.mark.parametrize(
    ("text", "modern", "legacy"),
    [
        # the best score first: ab before bc; then ▁ab
        ("abc", "▁ab c", "▁ab c"),
        ("cabc", "▁ c ab c", "▁ c ab c"),
        ("x", "▁ <0x78>", "▁ <0x78>"),
        ("漢", "▁ <0xE6> <0xBC> <0xA2>", "▁ <0xE6> <0xBC> <0xA2>"),
        # runs of spaces grow from the left: 3 + 2, not 2 + 2 + 1
        ("a     b", "▁ a ▁▁▁ ▁▁ b", "▁ a ▁▁▁ ▁▁ b"),
        ("  a", "▁▁▁ a", "▁▁▁ a"),
        # a lone prefix before new tokens, none before the base vocabulary's specials and the pad
        ("<p>", "▁ <p>", "<p>"),
        (" \n<p>", "▁ <p>", "<p>"),
        ("</s>ab", "</s> ab", "</s> ▁ab"),
        ("[PAD]ab", "[PAD] ab", "[PAD] ▁ab"),
        (" </s>ab", "▁▁ </s> ab", "▁▁ </s> ▁ab"),
        # white space beside new tokens is dropped, beside the specials it is kept
        ("a <p> b \t</p>\n", "▁ a <p> b </p>", "▁ a <p> ▁ b </p>"),
        ("\x1c<p>\x1ca", "▁ <p> a", "<p> ▁ a"),
        ("a </s> b", "▁ a ▁ </s> ▁ b", "▁ a ▁ </s> ▁▁ b"),
        # what the letters <unk> swallow is lost, and only it: the space stays, and a second full stop
        ("<p>.b", "▁ <p> b", "<p> ▁ . b"),
        ("<p>. b", "▁ <p> ▁ b", "<p> ▁ . ▁ b"),
        ("<p>..", "▁ <p> .", "<p> ▁ . ."),
        ("<p>éa", "▁ <p> a", "<p> ▁ é a"),
        ("a<p>.</p>", "▁ a <p> </p>", "▁ a <p> ▁ . </p>"),
        (".", "▁ .", "▁ ."),
        # looks like a byte, is text
        ("<0x41>", "▁ < <0x30> <0x78> <0x34> <0x31> >", "▁ < <0x30> <0x78> <0x34> <0x31> >"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_ids_by_hand(tokenizer, text, modern, legacy):
    for flag, pieces in ((False, modern), (True, legacy)):
        assert tokenizer(flag)(text)["input_ids"] == ids("<s>", *pieces.split())
        assert tokenizer(flag)(text, add_special_tokens=False)["input_ids"] == ids(*pieces.split())


def test_an_absent_flag_means_legacy(tokenizer):
    assert tokenizer(None)("<p>a")["input_ids"] == ids("<s>", "<p>", "▁", "a")


def test_batches_are_encoded_like_single_texts(tokenizer):
    made = tokenizer(False)
    texts = ["<p>.b", "</s>ab"]
    assert made(texts)["input_ids"] == [made(text)["input_ids"] for text in texts]


@pytest.mark.parametrize(
    ("pieces", "modern", "legacy"),
    [
        ("▁ab c", "abc", "abc"),
        ("<s> ▁ab", "<s> ab", "<s>ab"),
        ("▁ <p> ab </p> ▁ c", " <p> ab </p> c", " <p> ab </p> c"),
        ("<p> ▁▁ </p>", "<p>   </p>", "<p>  </p>"),
        ("<r0> <r1> . ▁ab", "<r0> <r1> . ab", "<r0> <r1> . ab"),
        ("<0x41> <0xFF> <0xC3> <0xA9> <0xE6> <0xBC> a", "A�é��a", "A�é��a"),
    ],
)  # fmt: skip
def test_text_by_hand(tokenizer, pieces, modern, legacy):
    for flag, text in ((False, modern), (True, legacy)):
        assert tokenizer(flag).decode(ids(*pieces.split())) == text


def test_special_tokens_can_be_left_out_of_the_text(tokenizer):
    assert tokenizer(False).decode(ids("<s>", "▁ab", "[PAD]", "<r1>", "</s>"), skip_special_tokens=True) == "ab <r1>"


def test_pieces_of_a_prompt_are_encoded_as_in_the_whole(tokenizer):
    """The three parts of a dialogue, encoded one by one, are the ids of the released code's single string."""
    for flag in (False, True):
        for name in ("llava", "default"):
            processor = GromaProcessor(tokenizer(flag), config(name))
            prefix, question = processor.template.prefix(), processor.template.question("ab <p>c</p>.")
            whole = processor.tokenizer(f"{prefix}{question} <sep>.ab<sep>{processor.template.end}")["input_ids"]
            apart = processor.prefix_ids(1, 0) + processor.question_ids("ab <p>c</p>.") + processor.answer_ids(".ab")
            assert [i for i in whole if i not in ids("<sep>", "<region>")] == apart


def test_the_template_decides_whether_answers_end(tokenizer):
    made = tokenizer(False)
    assert GromaProcessor(made, config("llava")).answer_ids("ab") == ids("ab", "</s>")
    assert GromaProcessor(made, config("default")).answer_ids("ab") == ids("ab")
    assert TEMPLATES["default"].native == TEMPLATES["llava"].native


def test_tokenizers_of_our_own_encode_a_piece_alike_wherever_it_stands():
    folder = BUNDLED / "groma-tiny"
    if not folder.is_dir():
        pytest.skip("no bundled checkpoint")
    processor = GromaProcessor.from_pretrained(folder, GromaConfig.from_pretrained(folder))
    for text in ("USER: where? ASSISTANT:", "a dog.", "<roi><ground_box></roi>", "[grounding] two <p>cats</p> é", ""):
        assert processor.encode(text, after="</s>") == processor.encode(text)
        assert processor.encode(text, after="<sep>") == processor.encode(text)


def test_merges_go_by_score_and_then_by_the_longer_left_part(tmp_path):
    write_model(tmp_path / "tokenizer.model")
    rules = merges(read_pieces(tmp_path / "tokenizer.model"))
    assert rules == [("a", "b"), ("▁", "ab"), ("b", "c"), (">", "."), (">", "é"), ("▁▁", "▁"), ("▁", "▁▁"), ("▁", "▁")]


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        released_tokenizer(folder, config())
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(folder), *words):
        assert word in message, message


@pytest.mark.parametrize("name", ["tokenizer.model", "added_tokens.json", "tokenizer_config.json"])
def test_missing_and_damaged_files_are_named(tmp_path, name):
    folder = write(tmp_path / "t")
    path = folder / name
    path.write_bytes(path.read_bytes()[:-2])
    refused(folder, name, "copy it again")
    path.unlink()
    refused(folder, name, "copy it from the released checkpoint")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pieces": [*ALL, ("x", -101, NORMAL)]}, (f"{BASE + 1} pieces", str(BASE))),
        ({"pieces": [*ALL[:-1], ("x", 0, USER_DEFINED)]}, ("unknown kind",)),
        ({"pieces": [*ALL[:-1], ALL[-2]]}, ("twice",)),
        ({"pieces": ALL[3:]}, ("<unk>, <s>, </s>",)),
        ({"pieces": [p for p in ALL if p[0] != "<0x41>"]}, ("no bytes",)),
        ({"trainer": {3: 1}}, ("not a BPE model",)),
        ({"trainer": {35: 0}}, ("no bytes",)),
        ({"normalizer": {1: "nmt_nfkc", 2: b"map"}}, ("changes the text",)),
        ({"normalizer": {4: 1}}, ("drops spaces",)),
        ({"normalizer": {3: 0}}, ("no space before",)),
        ({"normalizer": {5: 0}}, ("does not mark",)),
    ],
)  # fmt: skip
def test_other_models_are_refused(tmp_path, change, words):
    folder = write(tmp_path / "t")
    write_model(folder / "tokenizer.model", **change)
    refused(folder, "tokenizer.model", *words)


def test_new_tokens_must_have_their_ids(tmp_path):
    folder = write(tmp_path / "t")
    path = folder / "added_tokens.json"
    right = json.loads(path.read_text())
    for change, words in (
        ({"<roi>": None}, ("lacks '<roi>'", str(ID["<roi>"]))),
        ({"<roi>": ID["</roi>"], "</roi>": ID["<roi>"]}, ("'<roi>'", str(ID["</roi>"]), str(ID["<roi>"]))),
        ({"<r2>": ID["<r1>"] + 1}, ("'<r2>'", "17 tokens", "16")),
    ):
        path.write_text(json.dumps({t: i for t, i in (right | change).items() if i is not None}))
        refused(folder, "added_tokens.json", *words)


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
    folder = write(tmp_path / "t")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    refused(folder, "tokenizer_config.json", "GPT2Tokenizer")
