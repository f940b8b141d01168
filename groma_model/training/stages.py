"""What one training step computes, for each of the three stages (paper Sec. 4).

A stage is a module that owns the model and returns named losses for a batch, so that it can be wrapped for
data-parallel training as it is. Frozen modules stay in evaluation mode and run without gradients.

A step may be divided among processes and micro-batches. Then each part's losses are normalised by the counts of the
whole step: ``share`` puts the counts known beforehand into the parts, and a loss whose count is known only afterwards
(answer tokens) is returned as a sum with that count, for the loop to divide the gradients by.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from groma_model.data.samples import DialogueTurn, TrainingImage
from groma_model.modeling import IGNORE, GromaForConditionalGeneration
from groma_model.packing import PackedBatch, Turn, pack
from groma_model.processing import GromaProcessor
from groma_model.regions import Selection, reorder
from groma_model.training.detection_loss import detection_loss
from groma_model.training.recipe import Recipe


def set_trainable(model: GromaForConditionalGeneration, names: Sequence[str]) -> None:
    """Freeze everything but the named modules. Raises ValueError for a name the model does not have."""
    modules = dict(model.named_children())
    for name in names:
        if name not in modules:
            raise ValueError(f"trainable: the model has no module {name!r}; it has {', '.join(modules)}")
    for name, module in modules.items():
        module.requires_grad_(name in names)
        module.train(name in names)


#: One generator for a whole batch in turn, or one an image.
Draws = random.Random | Sequence[random.Random]


def _each(rngs: Draws, count: int) -> list[random.Random]:
    return [rngs] * count if isinstance(rngs, random.Random) else list(rngs)


def _seeds(rngs: Draws) -> list[int]:
    return [r.getrandbits(62) for r in ([rngs] if isinstance(rngs, random.Random) else rngs)]


def _generators(seeds: Sequence[int], count: int) -> list[torch.Generator]:
    """A generator an image: its own, or the one seed's in turn."""
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    return made * count if len(made) == 1 else made


def load_pixels(processor: GromaProcessor, images: Sequence[TrainingImage]) -> Tensor:
    """Decode and transform the pictures of a batch: (B, 3, S, S). Raises ValueError naming one that is broken."""
    pictures = []
    for item in images:
        try:
            with Image.open(item.path) as picture:
                pictures.append(picture.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # PIL's ways to say that it is broken
            reason = " ".join(str(error).split())
            raise ValueError(f"picture {item.path} cannot be decoded ({reason}): mend it, or leave it out") from None
    return processor.pixel_values(pictures)


class AttributeProbe(nn.Module):
    """Linear readout of annotated attributes from region tokens; thrown away after stage 1.

    It stands in for the pretraining that an image encoder trained from scratch lacks: boxes alone teach it no shapes,
    colours or patterns.
    """

    def __init__(self, width: int, values: Mapping[str, Sequence[str]]):
        super().__init__()
        self.values = {name: {v: i for i, v in enumerate(vs)} for name, vs in values.items()}
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(vs)) for name, vs in values.items()})

    def labels(self, name: str, attributes: Sequence[Mapping[str, str]]) -> Tensor:
        """Each object's value of an attribute as a class, IGNORE where it has none."""
        return torch.tensor([self.values[name].get(a.get(name, ""), IGNORE) for a in attributes], dtype=torch.long)

    def forward(
        self,
        tokens: Tensor,
        attributes: Sequence[Mapping[str, str]],
        counts: Mapping[str, float] | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy over attributes, and each attribute's accuracy; objects without it are skipped.

        ``counts``: how many objects each attribute's sum is divided by and the mean over attributes includes; those
        given unless given here.
        """
        losses, accuracies = [], {}
        for name, head in self.heads.items():
            labels = self.labels(name, attributes).to(tokens.device)
            logits = head(tokens).float()
            known = labels != IGNORE
            if counts is not None and counts[name]:
                total = functional.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORE)
                losses.append(total / counts[name])
            if known.any():
                if counts is None:
                    losses.append(functional.cross_entropy(logits[known], labels[known]))
                accuracies[name] = (logits[known].argmax(-1) == labels[known]).float().mean().item()
        return torch.stack(losses).mean(), accuracies


class DetectStage(nn.Module):
    """Stage 1: class-agnostic detection; with annotated attributes also the region encoder's readout.

    Divided steps are exact but for ``dense_encoder_topk``, whose number of positives is known only within a part: that
    term is then a mean of means.
    """

    #: Losses that add up over micro-batches; the others are averaged.
    additive = ("loss", "detection", "attributes")

    def __init__(self, model: GromaForConditionalGeneration, processor: GromaProcessor, recipe: Recipe,
                 values: Mapping[str, Sequence[str]], sources: Collection[str | None] = (None,)):  # fmt: skip
        """``values``: those of each annotated attribute. ``sources``: those of the images, None where one has none."""
        super().__init__()
        self.model, self.processor = model, processor
        own = {recipe.loss["source"] if one is None else one for one in sources}
        options = dict(recipe.loss)
        self.attribute_weight = float(options.pop("attribute_weight", 0.0))
        self.jitter = float(options.pop("box_jitter", 0.0))
        # An image's own source goes before the recipe's, but for a recipe that trains both heads on all boxes.
        self.source = options.pop("source")
        self.by_image = self.source != "both" and len(own) > 1
        if self.source != "both" and not self.by_image:
            (self.source,) = own
        self.options = options
        self.probe = (
            AttributeProbe(model.config.llm_config.hidden_size, values) if self.attribute_weight and values else None
        )

    def collate(self, images: Sequence[TrainingImage], rng: Draws) -> dict[str, Any]:
        """Pictures, boxes and, for the readout, slightly moved boxes (as proposals are)."""
        boxes = [torch.tensor(item.boxes, dtype=torch.float32).view(-1, 4).clamp(0, 1) for item in images]
        moved = []
        for given, generator in zip(boxes, _generators(_seeds(rng), len(images)), strict=True):
            sides = (given[:, 2:] - given[:, :2]).repeat(1, 2)
            noise = (torch.rand(given.shape, generator=generator) * 2 - 1) * self.jitter
            moved.append((given + noise * sides).clamp(0, 1))
        return {
            "pixel_values": load_pixels(self.processor, images),
            "boxes": boxes,
            "moved": moved,
            "attributes": [a for item in images for a in item.attributes],
            "source": [item.source or self.source for item in images] if self.by_image else self.source,
        }

    def share(self, parts: Sequence[dict[str, Any]], reduce: Callable[[Tensor], Tensor], processes: int) -> None:
        """Tell the parts of a step the counts that their sums are to be divided by.

        ``reduce`` sums over processes, whose gradients are then averaged: hence a process's share of each count.
        """
        names = list(self.probe.heads) if self.probe is not None else []
        counts = [sum(len(b) for part in parts for b in part["boxes"])]
        for name in names:
            labels = [self.probe.labels(name, part["attributes"]) for part in parts]
            counts.append(sum(int((known != IGNORE).sum()) for known in labels))
        boxes, *rest = (reduce(torch.tensor(counts, dtype=torch.float64)) / processes).tolist()
        for part in parts:
            part["share"] = {
                "boxes": max(boxes, 1 / processes), "parts": len(parts), "attributes": dict(zip(names, rest))
            }  # fmt: skip

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        device, share = self.model.device, batch.get("share")
        states = self.model.vision_encoder(batch["pixel_values"].to(device))
        with torch.autocast(device.type, enabled=False):
            proposals = self.model.proposer([s.float() for s in states])
            whole = {} if share is None else {"normaliser": share["boxes"], "parts": share["parts"]}
            boxes = [b.to(device) for b in batch["boxes"]]
            losses = detection_loss(proposals, boxes, batch["source"], **self.options, **whole)
        result = {"loss": losses["loss"], "detection": losses["loss"].detach()}
        if self.probe is not None:
            maps = self.model.region_encoder.fused_maps(states)
            tokens = self.model.encode_regions(maps, [b.to(device) for b in batch["moved"]])
            counts = None if share is None else share["attributes"]
            loss, accuracies = self.probe(torch.cat(tokens), batch["attributes"], counts)
            result["loss"] = result["loss"] + self.attribute_weight * loss
            result["attributes"] = loss.detach()
            result |= {f"acc_{k}": torch.tensor(v) for k, v in accuracies.items()}
        return result


class LanguageStage(nn.Module):
    """Stages 2 and 3: next-token prediction of answers, many questions packed behind an image's shared prefix."""

    additive = ("loss",)

    def __init__(self, model: GromaForConditionalGeneration, processor: GromaProcessor, recipe: Recipe):
        super().__init__()
        self.model, self.processor, self.recipe = model, processor, recipe
        self.frozen_perception = not {"vision_encoder", "proposer"} & set(recipe.trainable)
        self.pointer_weight = float(recipe.loss.get("pointer_weight", 1.0))
        self.task_weights: dict[str, float] = recipe.loss.get("task_weights", {})

    def collate(self, images: Sequence[TrainingImage], rng: Draws) -> dict[str, Any]:
        """Pictures and the dialogues drawn for this step; text is encoded once the regions are known."""
        drawn, weights = [], []
        for item, own in zip(images, _each(rng, len(images)), strict=True):
            chosen: list[tuple[DialogueTurn, ...]] = []
            weighed: list[float] = []
            for task, count in self.recipe.tasks.items():
                pool = item.dialogues.get(task, [])
                chosen += own.sample(pool, min(count, len(pool)))
                weighed += [self.task_weights.get(task, 1.0)] * min(count, len(pool))
            drawn.append(chosen)
            weights.append(weighed)
        return {
            "pixel_values": load_pixels(self.processor, images),
            "dialogues": drawn,
            "weights": weights,
            "boxes": [torch.tensor(item.boxes, dtype=torch.float32).view(-1, 4) for item in images],
            "order_seeds": _seeds(rng),
        }

    def share(self, parts: Sequence[dict[str, Any]], reduce: Callable[[Tensor], Tensor], processes: int) -> None:
        """Ask the parts of a step for sums: how many answer tokens there are depends on the proposals."""
        for part in parts:
            part["summed"] = True

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        model, device = self.model, self.model.device
        users = [_stack([t.refer_box for d in ds for t in d if t.refer_box]) for ds in batch["dialogues"]]
        grounds = [_stack([b for d in ds for t in d for b in t.ground_boxes]) for ds in batch["dialogues"]]
        with torch.set_grad_enabled(not self.frozen_perception):
            states, _, selections = model.propose(
                batch["pixel_values"].to(device),
                [u.to(device) for u in users],
                [g.to(device) for g in grounds],
            )
        generators = _generators(batch["order_seeds"], len(selections))
        shuffled = [_shuffle(s, g) for s, g in zip(selections, generators, strict=True)]
        regions = model.encode_regions(model.region_encoder.fused_maps(states), [s.boxes for s in shuffled])
        images = model.image_tokens(states)
        packed = self.pack(batch["dialogues"], batch["weights"], shuffled, images.shape[1]).to(device)
        return self.language_loss(packed, images, regions, batch.get("summed", False))

    def pack(
        self,
        dialogues: Sequence[Sequence[Sequence[DialogueTurn]]],
        weights: Sequence[Sequence[float]],
        selections: Sequence[Selection],
        num_image_tokens: int,
    ) -> PackedBatch:
        """Encode the dialogues with each box's region."""
        processor, ids = self.processor, self.processor.ids
        prefixes, blocks, counts = [], [], []
        for conversations, weighed, selection in zip(dialogues, weights, selections, strict=True):
            users, grounds = iter(selection.user_index.tolist()), iter(selection.ground_index.tolist())
            encoded = []
            for conversation, weight in zip(conversations, weighed, strict=True):
                turns = []
                for turn in conversation:
                    refer = [next(users)] if turn.refer_box else []
                    answer = _regions_once(turn.answer, [next(grounds) for _ in turn.ground_boxes])
                    question = processor.question_ids(turn.question, refer)
                    turns.append(Turn(question, processor.answer_ids(*answer), refer, weight))
                encoded.append(turns)
            blocks.append(encoded)
            counts.append(len(selection.boxes))
            prefixes.append(processor.prefix_ids(num_image_tokens, counts[-1]))
        placeholders = (ids["<image>"], ids["<region>"], ids["<refer_feat>"])
        return pack(prefixes, blocks, placeholders, num_image_tokens, ids["[PAD]"], counts,
                    self.pointer_weight, self.model.first_region_id)  # fmt: skip

    def language_loss(
        self, packed: PackedBatch, images: Tensor, regions: Sequence[Tensor], summed: bool = False
    ) -> dict[str, Tensor]:
        """Weighted mean cross-entropy over the answers, with the accuracy of words and of pointing.

        ``summed``: ``"loss"`` is the weighted sum, and ``"normaliser"`` what would divide it.
        """
        model = self.model
        most = packed.region_positions.shape[1]
        padded = torch.stack([functional.pad(r, (0, 0, 0, most - len(r))) for r in regions])
        features = torch.cat([images, padded.to(images.dtype)], 1)
        embeddings = model.embed(packed.ids, packed.feature_index, features, images.shape[1])
        hidden = model.run_llm(embeddings, packed.mask(embeddings.dtype), packed.positions)
        rows, columns = (packed.labels != IGNORE).nonzero(as_tuple=True)
        labels = packed.labels[rows, columns]
        keys = None
        if model.pointer is not None:
            width = hidden.shape[-1]
            at_regions = hidden.gather(1, packed.region_positions.unsqueeze(-1).expand(-1, -1, width))
            keys = model.pointer.keys(at_regions, padded.to(hidden.dtype))[rows]
        logits = model.logits(hidden[rows, columns], keys, packed.num_regions[rows])
        losses = functional.cross_entropy(logits, labels, reduction="none")
        weights = packed.weights[rows, columns]
        right = (logits.argmax(-1) == labels).float()
        pointing = labels >= model.first_region_id
        nothing = right.new_zeros(())
        total, normaliser = (losses * weights).sum(), weights.sum()
        whole = {"loss": total, "normaliser": normaliser} if summed else {"loss": total / normaliser}
        return {
            **whole,
            "words": losses[~pointing].mean().detach(),
            "pointing": losses[pointing].mean().detach() if pointing.any() else nothing,
            "acc_words": right[~pointing].mean(),
            "acc_pointing": right[pointing].mean() if pointing.any() else nothing,
        }


def _stack(boxes: Sequence[tuple[float, ...]]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4).clamp(0, 1)


def _regions_once(answer: str, regions: list[int]) -> tuple[str, list[int]]:
    """Within one ``<roi>`` a region is named once, even where two of its boxes fell to the same region."""
    pieces = answer.split("<roi>")
    result, kept, used = [pieces[0]], [], 0
    for piece in pieces[1:]:
        inside, separator, after = piece.partition("</roi>")
        count = inside.count("<ground_box>")
        unique = list(dict.fromkeys(regions[used : used + count]))
        used += count
        kept += unique
        result.append("<roi>" + "<ground_box>" * len(unique) + separator + after)
    return "".join(result), kept


def _shuffle(selection: Selection, generator: torch.Generator) -> Selection:
    """The same regions in random order: numbering must carry no meaning."""
    return reorder(selection, torch.randperm(len(selection.boxes), generator=generator).to(selection.boxes.device))
