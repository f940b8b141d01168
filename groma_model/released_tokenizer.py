"""The tokenizer of a released checkpoint: tokenizer.model, added_tokens.json and tokenizer_config.json -> the same ids.

The released weights were trained through the slow LlamaTokenizer of transformers 4.32, parts of whose behaviour later
versions gave up, and which needs a library that nothing else here needs. So its files are read here and its behaviour
is built from the ``tokenizers`` library: BPE over whole stretches of text between added tokens, bytes for unknown
characters, white space beside the added tokens dropped, and what its ``legacy`` flag says about prefixes.
"""

from __future__ import annotations

import codecs
import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import BatchEncoding, PreTrainedTokenizerFast

from groma_model.configuration import GromaConfig

#: What sentencepiece writes for a space.
SPACE = "▁"
#: Tokens of the base vocabulary that the tokenizer recognises in text. Unlike the new ones they keep the white space
#: beside them.
_BASE_SPECIALS = ("<unk>", "<s>", "</s>")
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")

#: Error handler: one replacement character for each byte that is no part of a character, as sentencepiece has it.
_EACH_BYTE = "groma-each-byte"
codecs.register_error(_EACH_BYTE, lambda error: ("\ufffd" * (error.end - error.start), error.end))

#: Kinds of pieces in a sentencepiece model.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


@dataclass(frozen=True)
class Piece:
    """An entry of a sentencepiece vocabulary; its id is its place. The higher ``score``, the earlier it is merged."""

    text: str
    score: float
    kind: int


def released_tokenizer(folder: Path, config: GromaConfig) -> ReleasedTokenizer:
    """The tokenizer of a released checkpoint, with the ids its weights were trained with.

    Args:
        folder: holds tokenizer.model, added_tokens.json and tokenizer_config.json.
        config: gives the size of the base vocabulary and the new tokens that must follow it.

    Raises:
        ValueError: one line naming the file, what is wrong and the mend.
    """
    folder = Path(folder)
    base = config.llm_config.vocab_size
    pieces = read_pieces(folder / "tokenizer.model")
    if len(pieces) != base:
        raise ValueError(
            f"{folder}/tokenizer.model has {len(pieces)} pieces, config.json's language model {base}: "
            "take both files from one checkpoint"
        )
    _check_added(folder / "added_tokens.json", config.new_tokens, base)
    settings = read_json(folder / "tokenizer_config.json")
    name = settings.get("tokenizer_class", "LlamaTokenizer")
    if name not in ("LlamaTokenizer", "LlamaTokenizerFast"):
        raise ValueError(
            f"{folder}/tokenizer_config.json describes a {name}, not a LlamaTokenizer: "
            "take the file from the released checkpoint"
        )
    # transformers 4.32 reads an absent flag as true.
    legacy = settings.get("legacy") is not False
    return ReleasedTokenizer(
        tokenizer_object=_backend(pieces, config.new_tokens, legacy, settings),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="[PAD]",
        clean_up_tokenization_spaces=False,
        legacy=legacy,
    )


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Read a tokenizer that ``save_pretrained`` wrote, as the class it was written by."""
    path = Path(folder) / "tokenizer_config.json"
    name = json.loads(path.read_text()).get("tokenizer_class") if path.is_file() else None
    kind = ReleasedTokenizer if name == ReleasedTokenizer.__name__ else PreTrainedTokenizerFast
    return kind.from_pretrained(folder)


class ReleasedTokenizer(PreTrainedTokenizerFast):
    """A tokenizer.json with what the slow tokenizer did and a tokenizer.json cannot say.

    Encoding rewrites the text first (:meth:`rewritten`). The new tokens swallow the white space beside them, as Python
    understands white space. With ``legacy`` the tokenizer.json then puts a prefix before every stretch between added
    tokens; without it,

    * there is one prefix for the whole text, put before added tokens are looked for: a text that starts with a new
      token yields a lone ``▁`` (but not before ``[PAD]``, ``<s>``, ``</s>`` and ``<unk>``);
    * each stretch was encoded behind the letters ``<unk>``, and as many pieces were dropped as these letters have by
      themselves. Where the vocabulary has a piece like ``>.``, it swallows the full stop after an added token: the
      weights have never seen it there.

    Decoding puts one space between neighbours of which one is a new token, and takes off the prefix of each run
    between new tokens. It differs from the slow tokenizer in two odd cases, both only where text has several spaces on
    end or ``</s>`` inside a run: that one leaves some ``▁`` in the text, and with ``legacy`` adds a space too early.
    """

    @property
    def legacy(self) -> bool:
        """The flag of this name in tokenizer_config.json."""
        return self.init_kwargs["legacy"]

    def rewritten(self, text: str) -> str:
        """The text that the tokenizer.json has to encode."""
        tokens = sorted(self.added_tokens_encoder, key=len, reverse=True)
        start = text if self.legacy or not text else SPACE + text.replace(SPACE, " ")
        # text, token, text, ..., token, text; the texts may be empty
        parts = re.split(f"({'|'.join(map(re.escape, tokens))})", start)
        for i in range(0, len(parts), 2):
            if i > 0 and parts[i - 1] not in _BASE_SPECIALS:
                parts[i] = parts[i].lstrip()
            if i + 1 < len(parts) and parts[i + 1] not in _BASE_SPECIALS:
                parts[i] = parts[i].rstrip()
            if not self.legacy:
                parts[i] = self._unswallowed(parts[i].replace(" ", SPACE))
        if not self.legacy and parts[0] == SPACE and len(parts) > 1 and parts[1] in self.all_special_tokens:
            parts[0] = ""
        return "".join(parts)

    def _unswallowed(self, stretch: str) -> str:
        """What is left of a stretch when the pieces of ``<unk>`` are dropped from it with that prefix."""
        model, prefix = self.backend_tokenizer.model, "<unk>"
        dropped = model.tokenize(prefix + stretch)[: len(model.tokenize(prefix))]
        # The rest is encoded alike without its prefix: no merge went over the boundary. Offsets count bytes.
        return (prefix + stretch).encode()[dropped[-1].offsets[1] :].decode(errors="ignore")

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        return super()._encode_plus(self._each_rewritten(text), self._each_rewritten(text_pair), **options)

    def _each_rewritten(self, texts: Any) -> Any:
        if isinstance(texts, (list, tuple)):
            return [self._each_rewritten(text) for text in texts]
        return texts if texts is None else self.rewritten(texts)

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **options: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        new = set(self.added_tokens_encoder) - set(_BASE_SPECIALS)
        parts: list[str] = []
        run: list[str] = []
        for token in self.convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens):
            if token not in new:
                run.append(token)
                continue
            parts += [self._run_text(run), token] if run else [token]
            run = []
        return " ".join([*parts, self._run_text(run)] if run else parts)

    def _run_text(self, run: list[str]) -> str:
        """The text of pieces without a new token among them."""
        data = b"".join(bytes([int(t[3:5], 16)]) if _BYTE_TOKEN.fullmatch(t) else t.encode() for t in run)
        text = data.decode(errors=_EACH_BYTE).removeprefix(SPACE)
        if self.legacy:
            # sentencepiece takes off the prefix it puts: at the start and after each of the base vocabulary's specials.
            text = re.sub(f"(\\A|{'|'.join(_BASE_SPECIALS)}){SPACE}", r"\1", text)
        return text.replace(SPACE, " ")


def _backend(pieces: Sequence[Piece], new_tokens: Sequence[str], legacy: bool, settings: dict[str, Any]) -> Tokenizer:
    vocabulary = {piece.text: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges(pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if legacy else spaces
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in _BASE_SPECIALS])
    # Without legacy, white space beside a token was inside the text before a character between them was swallowed.
    options = dict(lstrip=legacy, rstrip=legacy, normalized=False)
    tokenizer.add_tokens([AddedToken(t, special=t == "[PAD]", **options) for t in new_tokens])
    start = ["<s>"] if settings.get("add_bos_token", True) else []
    end = ["</s>"] if settings.get("add_eos_token", False) else []
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*start, "$A", *end],
        pair=[*start, "$A", *end, *start, "$B", *end],
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in (*start, *end)],
    )
    # For other readers of the tokenizer.json; ReleasedTokenizer has its own.
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """The merge rules of a vocabulary with scores, most urgent first.

    sentencepiece has no rules but merges any two neighbours that make a piece, the best score first, then the leftmost.
    So each way to cut a piece in two pieces is a rule. Runs of spaces share one score in Llama's vocabulary; that the
    longer left part goes first there makes them grow from the left as they do in sentencepiece.
    """
    normal = {piece.text for piece in pieces if piece.kind == _NORMAL}
    rules = [
        (-piece.score, -cut, cut - len(piece.text), piece.text[:cut], piece.text[cut:])
        for piece in pieces
        if piece.kind == _NORMAL
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in normal and piece.text[cut:] in normal
    ]
    return [(left, right) for *_, left, right in sorted(rules, key=lambda rule: rule[:3])]


def read_pieces(path: Path) -> list[Piece]:
    """The pieces of a sentencepiece BPE model, in the order of their ids.

    Raises:
        ValueError: one line, for a file that is missing, damaged or a model of a kind that Llama's is not.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}: copy it from the released checkpoint")
    try:
        pieces, trainer, normalizer = _parse(path.read_bytes())
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError):
        raise ValueError(f"{path} is damaged or not a sentencepiece model: copy it again") from None
    # Absent fields have the defaults that sentencepiece's file format gives them.
    problems = {
        "it is not a BPE model": trainer.get(3, 1) != 2,
        "it has no bytes for unknown characters": not trainer.get(35, 0)
        or {p.text for p in pieces if p.kind == _BYTE} != {f"<0x{b:02X}>" for b in range(256)},
        "it marks spaces at the end of words": trainer.get(24, 0),
        "it changes the text before splitting it": normalizer.get(2, b""),
        "it puts no space before the text": not normalizer.get(3, 1),
        "it drops spaces": normalizer.get(4, 1),
        "it does not mark spaces": not normalizer.get(5, 1),
        "it has pieces of an unknown kind": {p.kind for p in pieces} - {_NORMAL, _UNKNOWN, _CONTROL, _BYTE},
        "it has a piece twice": len({p.text for p in pieces}) != len(pieces),
        f"it lacks one of {', '.join(_BASE_SPECIALS)}": set(_BASE_SPECIALS) - {p.text for p in pieces},
    }
    for problem, found in problems.items():
        if found:
            raise ValueError(f"{path} is not a model like Llama's ({problem}): take the released checkpoint's")
    return pieces


def _parse(data: bytes) -> tuple[list[Piece], dict[int, Any], dict[int, Any]]:
    """Pieces, trainer settings and normaliser settings of a sentencepiece model, settings by field number.

    The file is one protocol buffer message: field 1 is a piece (1 text, 2 score, 3 kind), 2 the trainer's settings
    (3 model type, 24 spaces as suffix, 35 byte fallback), 3 the normaliser's (2 character map, 3 prefix, 4 drop
    spaces, 5 mark spaces).
    """
    pieces: list[Piece] = []
    settings: dict[int, dict[int, Any]] = {2: {}, 3: {}}
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(value))
            pieces.append(Piece(piece[1].decode(), piece.get(2, 0.0), piece.get(3, _NORMAL)))
        elif field in settings:
            settings[field] = dict(_fields(value))
    return pieces, settings[2], settings[3]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message: int, float or bytes by its wire type."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            # 5 is a 32-bit float, 1 a 64-bit one; others do not occur
            form, size = {5: ("<f", 4), 1: ("<d", 8)}[wire]
            value, at = struct.unpack_from(form, data, at)[0], at + size
        if at > len(data):
            raise IndexError("the message ends inside a field")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where the next field starts."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _check_added(path: Path, new_tokens: Sequence[str], base: int) -> None:
    """Raise ValueError unless the file gives the new tokens, and no others, the ids from ``base`` on in their order."""
    found = read_json(path)
    for token, expected in zip(new_tokens, range(base, base + len(new_tokens))):
        if token not in found:
            raise ValueError(
                f"{path} lacks {token!r}, which must have the id {expected}: take the file from the released checkpoint"
            )
        if found[token] != expected:
            raise ValueError(
                f"{path} gives {token!r} the id {found[token]}, the weights expect {expected}: "
                "take the file from the released checkpoint"
            )
    if extra := sorted(set(found) - set(new_tokens)):
        raise ValueError(
            f"{path} has {len(found)} tokens, {extra[0]!r} among them, the weights {len(new_tokens)}: "
            "take the file from the released checkpoint"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A checkpoint's JSON file. Raises ValueError (one line) where it is missing, malformed or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent} has no {path.name}: copy it from the released checkpoint") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): copy it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object: copy it again")
    return value
