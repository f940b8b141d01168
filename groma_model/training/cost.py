"""The memory that one micro-batch takes and its FLOPs, counted by running it.

The counters watch any run. :func:`step_cost` runs the modules on tensors that have sizes but no contents (torch's fake
tensors), so that a 7B step is counted in seconds without its memory. It follows the stages with fixed numbers of
regions and tokens where theirs depend on the picture, and leaves out the detection loss's matching.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from groma_model.configuration import GromaConfig
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.ops.attention import PackedMask
from groma_model.proposer import ProposerOutput
from groma_model.proposer_layers import grid_encodings
from groma_model.training.lora import prepare
from groma_model.training.recipe import Recipe
from groma_model.training.recompute import recomputed


# ---------------------------------------------------------------------------------------------------- counters
class ModelFlops(TorchDispatchMode):
    """Counts matrix products and convolutions (two FLOPs a multiply-add) of what runs within.

    ``total``: without what gradient checkpointing computes again, as model FLOPs utilisation wants it. ``recomputed``:
    that part. Attention's backward pass counts as twice its forward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = self.recomputed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name, packet = func._overloadpacket.__name__, func._overloadpacket
        if "scaled_dot_product" in name or "_flash_attention" in name:
            backward = name.endswith("_backward")
            shapes = [tensor.shape for tensor in args[backward : backward + 3]]
            count = sdpa_flop_count(*shapes) * (2 if backward else 1)
        elif packet in flop_registry:
            count = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        else:
            return out
        # Within the backward pass only what is computed again runs with gradients on.
        if torch._C._current_graph_task_id() >= 0 and torch.is_grad_enabled():
            self.recomputed += count
        else:
            self.total += count
        return out


class _Held:
    """A tensor kept for the backward pass; it lives as long as the graph does."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class KeptBytes:
    """Counts the memory that autograd keeps of a module's forward pass, parameters and buffers left out."""

    def __init__(self, module: nn.Module):
        self.held: weakref.WeakSet[_Held] = weakref.WeakSet()
        self.own = {_storage(t) for t in (*module.parameters(), *module.buffers())}

    @contextmanager
    def watch(self) -> Iterator[KeptBytes]:
        """Count what runs within."""

        def pack(tensor: Tensor) -> _Held:
            # Without its history: an output that its own node keeps would keep the node.
            self.held.add(held := _Held(tensor.detach()))
            return held

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            yield self

    def bytes(self) -> int:
        """What is kept now; a storage counts once, as a whole."""
        sizes = {_storage(h.tensor): h.tensor.untyped_storage().nbytes() for h in self.held}
        return sum(size for storage, size in sizes.items() if storage not in self.own)


class LiveBytes(TorchDispatchMode):
    """Counts the memory of all tensors that are made within and not yet freed: ``peak`` is the most at one time.

    Parameters and buffers of ``module`` are left out, and what kernels allocate inside themselves.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.live = self.peak = 0
        own = (t.untyped_storage() for t in (*module.parameters(), *module.buffers()))
        self.known = weakref.WeakValueDictionary({storage._cdata: storage for storage in own})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.detach.default:  # nothing new, but perhaps of a tensor from outside
            return out
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if self.known.get(storage._cdata) is not storage:
                    self.known[storage._cdata] = storage
                    self.live += (size := storage.nbytes())
                    weakref.finalize(storage, self._free, size)
        self.peak = max(self.peak, self.live)
        return out

    def _free(self, size: int) -> None:
        self.live -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@dataclass(frozen=True)
class StepCost:
    """Of one micro-batch in one process; bytes without and with gradient checkpointing.

    Attributes:
        kept: bytes that autograd keeps between forward and backward pass.
        peak: most bytes at one time beside parameters, gradients and the optimiser's states: what is kept and what is
            at work, autocast's half-precision copies of weights among it.
        flops: model FLOPs, forward and backward. recomputed: those that checkpointing adds.
    """

    kept: tuple[int, int]
    peak: tuple[int, int]
    flops: int
    recomputed: int


def measure(stage: nn.Module, model: GromaForConditionalGeneration, forward: Callable[[], Tensor],
            precision: str = "no") -> StepCost:  # fmt: skip
    """Count a micro-batch: ``forward`` computes its loss; it is called twice. Gradients are dropped."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    handles = [p.register_post_accumulate_grad_hook(drop) for p in stage.parameters() if p.requires_grad]
    kept, peak = [], []
    try:
        for checkpointing in (False, True):
            counter, live, held = ModelFlops(), LiveBytes(stage), KeptBytes(stage)
            with recomputed(model, checkpointing), live, counter:
                with held.watch(), _precision(precision):
                    loss = forward()
                kept.append(held.bytes())
                loss.backward()
                del loss
            peak.append(live.peak)
    finally:
        for handle in handles:
            handle.remove()
    return StepCost((kept[0], kept[1]), (peak[0], peak[1]), counter.total, counter.recomputed)


def _precision(precision: str) -> Any:
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast("cpu", types[precision]) if precision in types else nullcontext()


# ---------------------------------------------------------------------------------------------------- fake run
@dataclass(frozen=True)
class Load:
    """What a micro-batch holds.

    ``regions``: an image, as region tokens (in detection: objects read by the attribute readout). ``prefix``: tokens of
    an image's prefix; ``rows`` of ``row_length`` tokens of questions and answers follow it; ``answers``: trained tokens
    of the whole micro-batch.
    """

    images: int
    regions: int
    prefix: int = 0
    rows: int = 0
    row_length: int = 0
    answers: int = 0


#: Tokens of a prefix beside image and regions, by prompt template.
_PREFIX_TEXT = {"brief": 6}
_LONG_PREFIX_TEXT = 80
#: Objects an image in detection data (COCO's train2017 has 7.3).
_OBJECTS = 8


def expected_load(recipe: Recipe, config: GromaConfig, processes: int = 1, tokens: int = 128) -> Load:
    """The micro-batch that an estimate assumes: as many regions as there may be, dialogues of ``tokens`` tokens.

    Half of a dialogue's tokens are answers.

    Raises:
        ValueError: the batch does not divide among processes and micro-batches.
    """
    images, rest = divmod(recipe.batch_size, processes * recipe.accumulate)
    if rest:
        raise ValueError(
            f"batch_size {recipe.batch_size} does not divide among {processes} processes with {recipe.accumulate} "
            "micro-batches each"
        )
    if recipe.stage == "detect":
        return Load(images, _OBJECTS)
    image_tokens = config.grid_size**2 // (4 if config.token_merge else 1)
    text = _PREFIX_TEXT.get(recipe.template or config.prompt_template, _LONG_PREFIX_TEXT)
    rows = sum(recipe.tasks.values())
    return Load(images, config.max_regions, image_tokens + 2 * config.max_regions + text, rows, tokens,
                images * rows * tokens // 2)  # fmt: skip


def step_cost(recipe: Recipe, config: GromaConfig, load: Load) -> StepCost:
    """Count a micro-batch of the recipe's stage on tensors without contents.

    Arithmetic follows the CPU's rules for mixed precision; CUDA's keep LayerNorms and softmax in float32, and its
    attention keeps no scores of the image encoder.

    Raises:
        ValueError: ``lora`` without the package peft.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    config = GromaConfig.from_dict(config.to_dict())
    grid_encodings.cache_clear()  # it holds tensors: no real ones must enter, no others leave
    try:
        with torch.device("meta"):
            model = GromaForConditionalGeneration(config)
            prepare(model, recipe)
        with FakeTensorMode():
            model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
            forward = _detect if recipe.stage == "detect" else _language
            pixels = torch.zeros(load.images, 3, config.image_size, config.image_size)
            return measure(model, model, lambda: forward(model, recipe, load, pixels), recipe.precision)
    finally:
        grid_encodings.cache_clear()


def _detect(model: GromaForConditionalGeneration, recipe: Recipe, load: Load, pixels: Tensor) -> Tensor:
    states = model.vision_encoder(pixels)
    with torch.autocast("cpu", enabled=False):
        proposals = model.proposer([s.float() for s in states])
        loss = _objectness(proposals, recipe) + proposals.layer_boxes.abs().sum() + proposals.encoder_boxes.abs().sum()
    if recipe.loss.get("attribute_weight"):
        loss = loss + _regions(model, states, load).float().square().sum()
    return loss


def _objectness(output: ProposerOutput, recipe: Recipe) -> Tensor:
    """Of the size of the focal loss over all queries and grid tokens."""
    heads = {"coco": [output.layer_coco_logits], "sa1b": [output.layer_sa1b_logits]}
    logits = heads.get(recipe.loss["source"], [output.layer_coco_logits, output.layer_sa1b_logits])
    return sum(((1 - x.sigmoid()) ** 2 * F.softplus(-x)).sum() for x in [*logits, output.encoder_logits])


def _language(model: GromaForConditionalGeneration, recipe: Recipe, load: Load, pixels: Tensor) -> Tensor:
    with torch.set_grad_enabled(bool({"vision_encoder", "proposer"} & set(recipe.trainable))):
        states = model.vision_encoder(pixels)
        model.proposer(states)
    count = load.images
    regions = _regions(model, states, load).unflatten(0, (count, load.regions))
    images = model.image_tokens(states)
    features = torch.cat([images, regions.to(images.dtype)], 1)
    length = load.prefix + load.rows * load.row_length
    ids = torch.zeros(count, length, dtype=torch.long)
    embeddings = model.embed(ids, ids, features, images.shape[1])
    mask = PackedMask(
        embeddings.new_zeros(count, 1, length, load.prefix),
        embeddings.new_zeros(count, 1, load.rows, load.row_length, load.row_length),
    )
    hidden = model.run_llm(embeddings, mask, ids)
    rows, columns = torch.zeros(2, load.answers, dtype=torch.long).unbind()
    keys = None
    if model.pointer is not None:
        index = torch.zeros(count, load.regions, dtype=torch.long)
        at_regions = hidden.gather(1, index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        keys = model.pointer.keys(at_regions, regions.to(hidden.dtype))[rows]
    logits = model.logits(hidden[rows, columns], keys, rows)
    return (F.cross_entropy(logits, rows, reduction="none") * rows.float()).sum()


def _regions(model: GromaForConditionalGeneration, states: list[Tensor], load: Load) -> Tensor:
    """(images * regions, H): the region encoder, each image's number of regions known beforehand."""
    encoder = model.region_encoder
    boxes = torch.zeros(load.images * load.regions, 4)
    index = torch.arange(load.images).unsqueeze(1).expand(-1, load.regions).flatten()
    pooled = encoder.pool(encoder.roi_features(encoder.fused_maps(states), boxes, index).flatten(1))
    return encoder.project(pooled + encoder.box_embed(boxes).to(pooled.dtype))
