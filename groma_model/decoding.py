"""Greedy answers to many questions at once: every pass holds the new tokens of all questions and nothing else.

The questions of a picture stand behind its prefix as blocks (see :mod:`groma_model.ops.tree_attention`). A question
that has ended takes no part in later passes. Where the grammar of answers all but fixes the next token, it is guessed
and given with the one before: the same pass says whether the guess is what the model itself would have chosen, and
only then is it kept, so that guessing saves passes and never changes an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from groma_model.modeling import GromaForConditionalGeneration
from groma_model.ops.tree_attention import Row, TreeCache, group_rows
from groma_model.packing import feature_indices
from groma_model.prefixes import Prefix, Stem
from groma_model.processing import GromaProcessor


def row_padding(device: torch.device) -> float:
    """Up to what factor rows are padded to each other in attention.

    On CUDA one large product beats several small ones; elsewhere each row is computed by itself, without padding.
    """
    return 1.5 if device.type == "cuda" else 1.0


@dataclass
class Job:
    """One question: its prefix, its ids behind it, the region of each referral, the rendered prompt, and whether it
    asks to be answered by pointing."""

    prefix: Prefix
    ids: list[int]
    refer: list[int]
    prompt: str
    pointing: bool = False

    @property
    def block(self) -> list[int]:
        """Ids behind what is shared: the rest of the prefix, and the question."""
        return self.prefix.ids[self.prefix.shared :] + self.ids


@dataclass
class _Block:
    """A question while it is decoded. ``offset``: of its prefix's features in the table of all."""

    job: Job
    group: int
    row: int
    number: int  # among the row's blocks
    offset: int
    ids: list[int]
    feature_index: list[int]
    produced: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    guesses: list[int] = field(default_factory=list)
    fed: int = 0  # tokens of the block that were given and stand
    running: bool = True


def guess_next(produced: Sequence[int], pointing: bool, names: dict[str, int], first_region: int) -> list[int]:
    """The token that all but always follows: ``<roi>`` opens a pointing answer and follows a phrase, and ``</roi>``
    follows a region; [] elsewhere."""
    last = produced[-1] if produced else None
    if last == names["</p>"] or (last is None and pointing):
        return [names["<roi>"]]
    return [names["</roi>"]] if last is not None and last >= first_region else []


def decode(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    jobs: Sequence[Job],
    stem_of: Callable[[Job], Stem],
    max_new_tokens: int,
) -> list[tuple[list[int], list[float]]]:
    """Greedy ids (without the end) and the probability of each region token among them, for each question.

    Args:
        stem_of: what is prefilled of a question's picture; at least as long as the question's share.
    """
    rows: dict[int, list[int]] = {}
    for place, job in enumerate(jobs):
        rows.setdefault(id(job.prefix.scene), []).append(place)
    members = list(rows.values())
    groups = group_rows([sum(len(jobs[i].block) for i in row) for row in members], row_padding(model.device))
    cache = TreeCache(
        [[_row(jobs, members[r], stem_of) for r in group] for group in groups], max_new_tokens, model.device
    )
    features, blocks = _lay_out(model, processor, jobs, [[members[r] for r in group] for group in groups])
    tables = _PointerKeys(model, processor, blocks, stem_of)
    with model.widened_heads():
        for _ in range(max_new_tokens):
            running = [block for block in blocks if block.running]
            if not running:
                break
            _pass(model, processor, cache, running, features, tables, max_new_tokens)
    first = model.first_region_id
    found: dict[int, tuple[list[int], list[float]]] = {}
    for block in blocks:
        pairs = zip(block.produced, block.chances, strict=True)
        found[id(block.job)] = (block.produced, [chance for token, chance in pairs if token >= first])
    return [found[id(job)] for job in jobs]


def _row(jobs: Sequence[Job], members: Sequence[int], stem_of: Callable[[Job], Stem]) -> Row:
    chosen = [jobs[i] for i in members]
    return Row(stem_of(chosen[0]).layers, [j.prefix.shared for j in chosen], [len(j.block) for j in chosen])


def _lay_out(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    jobs: Sequence[Job],
    groups: Sequence[Sequence[Sequence[int]]],
) -> tuple[Tensor, list[_Block]]:
    """The features of all prefixes as one table (1, F, H), and the questions in the order of the sequence."""
    names = processor.ids
    table: list[Tensor] = []
    offsets: dict[int, int] = {}
    blocks, size = [], 0
    for g, rows in enumerate(groups):
        for r, row in enumerate(rows):
            for number, place in enumerate(row):
                job, prefix = jobs[place], jobs[place].prefix
                count = len(prefix.scene.image_tokens)
                if id(prefix) not in offsets:
                    offsets[id(prefix)] = size
                    table += [prefix.scene.image_tokens, prefix.region_tokens.to(prefix.scene.image_tokens.dtype)]
                    size += count + len(prefix.region_tokens)
                refer = feature_indices(job.ids, -1, -1, names["<refer_feat>"], count, job.refer)
                index = prefix.feature_index[prefix.shared :] + refer
                offset = offsets[id(prefix)]
                index = [offset + i if i >= 0 else -1 for i in index]
                blocks.append(_Block(job, g, r, number, offset, job.block, index))
    return torch.cat(table)[None], blocks


class _PointerKeys:
    """The pointer head's keys of each question's regions, padded: (questions, R, d). A question whose regions are not
    all among the prefilled ones has the others' after its first pass."""

    def __init__(
        self,
        model: GromaForConditionalGeneration,
        processor: GromaProcessor,
        blocks: Sequence[_Block],
        stem_of: Callable[[Job], Stem],
    ):
        self.counts = torch.tensor([len(b.job.prefix.boxes) for b in blocks], device=model.device)
        self.place = {id(block): i for i, block in enumerate(blocks)}
        self.region = processor.ids["<region>"]
        self.model, self.table = model, None
        if model.pointer is None:
            return
        stems = [stem_of(block.job).pointer_keys for block in blocks]
        shape = (len(blocks), int(self.counts.max()), model.config.pointer_dim)
        self.table = torch.zeros(shape, dtype=stems[0].dtype, device=stems[0].device)
        for i, (block, keys) in enumerate(zip(blocks, stems, strict=True)):
            shared = block.job.prefix.shared_regions
            self.table[i, :shared] = keys[:shared]

    def learn(self, block: _Block, hidden: Tensor) -> None:
        """From the hidden states (T, H) of the question's first pass."""
        prefix = block.job.prefix
        shared = prefix.shared_regions
        if self.table is None or shared == len(prefix.boxes):
            return
        at = [t for t, token in enumerate(block.ids) if token == self.region]
        regions = prefix.region_tokens[shared:].to(hidden.dtype)
        keys = self.model.pointer.keys(hidden[at], regions)
        self.table[self.place[id(block)], shared : len(prefix.boxes)] = keys

    def of(self, blocks: Sequence[_Block]) -> tuple[Tensor | None, Tensor]:
        """Keys (M, R, d) and the number of regions (M,) of these questions."""
        index = torch.tensor([self.place[id(block)] for block in blocks], device=self.counts.device)
        return None if self.table is None else self.table[index], self.counts[index]


def _pass(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    cache: TreeCache,
    running: Sequence[_Block],
    features: Tensor,
    tables: _PointerKeys,
    max_new_tokens: int,
) -> None:
    """Give every running question its new tokens and guesses, and take what the model chooses behind them."""
    device, first = model.device, model.first_region_id
    ids: list[int] = []
    index: list[int] = []
    named: list[int] = []
    positions: list[int] = []
    read: list[int] = []  # places whose successors are read
    readers: list[_Block] = []
    fed: list[list[tuple[int, int, int, int]]] = [[] for _ in cache.groups]
    starts = []
    for block in running:
        left = max_new_tokens - len(block.produced)
        block.guesses = guess_next(block.produced, block.job.pointing, processor.ids, first)[: left - 1]
        opening = block.fed == 0
        tokens = [*(block.ids if opening else block.produced[-1:]), *block.guesses]
        known = block.feature_index if opening else []
        regions = block.offset + len(block.job.prefix.scene.image_tokens)
        fed[block.group].append((block.row, block.number, block.fed, len(tokens)))
        starts.append(len(ids))
        ids += tokens
        index += known + [-1] * (len(tokens) - len(known))
        count = len(block.job.prefix.boxes)
        named += [regions + t - first if 0 <= t - first < count else -1 for t in tokens]
        start = block.job.prefix.shared + block.fed
        positions += range(start, start + len(tokens))
        read += range(len(ids) - 1 - len(block.guesses), len(ids))
        readers += [block] * (1 + len(block.guesses))
        block.fed += len(tokens) - len(block.guesses)
    given = torch.tensor([ids, index, named, positions], device=device)
    embeddings = model.embed_at(given[:1], given[1:2], given[2:3], features)
    hidden = model.run_llm(embeddings, cache.step(fed), given[3:])[0]
    for block, start in zip(running, starts, strict=True):
        if not block.produced:
            tables.learn(block, hidden[start : start + len(block.ids)])
    logits = model.logits(hidden[torch.tensor(read, device=device)], *tables.of(readers))
    best, chosen = logits.max(-1)
    chances = (best - logits.logsumexp(-1)).exp().tolist()
    ends = (processor.eos_id, processor.ids["[PAD]"])
    outcomes = zip(chosen.tolist(), chances, strict=True)
    for block in running:
        answers = [next(outcomes) for _ in range(1 + len(block.guesses))]
        for number, (token, chance) in enumerate(answers):
            if token in ends:
                block.running = False
                break
            block.produced.append(token)
            block.chances.append(chance)
            if block.guesses[number : number + 1] != [token]:
                break
            block.fed += 1
        block.running = block.running and len(block.produced) < max_new_tokens
