"""The estimate of a training step beside the step itself: memory, FLOPs, and the share of the peak that is reached.

    python bench/train_memory.py [--data data/shapes] [--images 4] [--precision no]

For three sizes (presets nano and tiny, and tiny twice as wide) and the three stages: real micro-batches are run; what
they keep between forward and backward pass and the most that is alive at one time are counted tensor by tensor. The
estimate counts the same on tensors without contents, from the numbers of regions and tokens alone. Gradients and the
optimiser's moments are measured after a step. The processor's speed is that of square float32 products, measured before
and after each step; the share reached is of the better one.
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import torch
import transformers
from torch import Tensor

from groma_model.configuration import GromaConfig, preset
from groma_model.data.samples import TrainingImage, corpus, read_training_images
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import TEMPLATES, GromaProcessor, train_tokenizer
from groma_model.training.cost import Load, ModelFlops, StepCost, measure, step_cost
from groma_model.training.loop import build_stage, parameter_groups
from groma_model.training.memory import estimate
from groma_model.training.recipe import Recipe
from groma_model.training.stages import DetectStage, LanguageStage

TASKS = {"rec": 2, "grounding": 2, "caption": 2, "scene": 1, "vqa": 2}
_BESIDE = ("projector", "region_encoder", "new_token_embeddings", "new_token_head", "pointer")
STAGES = {
    "detect": {"trainable": ("proposer",), "loss": {"source": "coco"}},
    "detect, encoder tuned": {"trainable": ("vision_encoder", "proposer"), "loss": {"source": "coco"}},
    "align": {"trainable": _BESIDE, "tasks": TASKS},
    "instruct": {"trainable": (*_BESIDE, "llm"), "tasks": TASKS},
}
_TINY = preset("tiny")
#: Tiny at twice the width.
_WIDE = {
    "vision_config": _TINY.vision_config.to_dict() | {"hidden_size": 320, "num_attention_heads": 10},
    "llm_config": _TINY.llm_config.to_dict() | {"hidden_size": 384, "intermediate_size": 1024, "head_dim": 64},
    "proposer_dim": 256, "region_dim": 512,
}  # fmt: skip
SIZES: dict[str, Callable[[], GromaConfig]] = {
    "nano": lambda: preset("nano"), "tiny": lambda: preset("tiny"),
    "tiny, twice as wide": lambda: preset("tiny", **_WIDE),
}  # fmt: skip


def recipe_of(stage: str, images: int, precision: str = "no") -> Recipe:
    """A recipe of one of :data:`STAGES`."""
    return Recipe(stage=stage.split(",")[0], steps=1, batch_size=images, lr=1e-5, precision=precision, **STAGES[stage])


@contextmanager
def observed(stage: DetectStage | LanguageStage) -> Iterator[dict[str, int]]:
    """Within, what the stage's micro-batches hold, as :class:`Load` wants it, is noted down."""
    seen: dict[str, int] = {}
    if isinstance(stage, LanguageStage):
        plain = stage.pack

        def pack(*arguments: object):
            packed = plain(*arguments)
            rows = (packed.ids.shape[1] - packed.prefix_length) // packed.row_length
            seen.update(
                images=len(packed.ids), regions=round(float(packed.num_regions.float().mean())),
                prefix=packed.prefix_length, rows=rows, row_length=packed.row_length,
                answers=int((packed.labels >= 0).sum()),
            )  # fmt: skip
            return packed

        stage.pack = pack
    try:
        yield seen
    finally:
        stage.__dict__.pop("pack", None)


def compare(config: GromaConfig, recipe: Recipe, processor: GromaProcessor, images: list[TrainingImage],
            ) -> tuple[StepCost, StepCost, DetectStage | LanguageStage, Load]:  # fmt: skip
    """Measured and estimated cost of a micro-batch of these images, with the stage and what the batch held."""
    torch.manual_seed(0)
    model = GromaForConditionalGeneration(config)
    stage = build_stage(model, processor, recipe, images)
    batch = stage.collate(images, random.Random(0))

    def forward() -> Tensor:
        torch.manual_seed(0)
        return stage(batch)["loss"]

    with observed(stage) as seen:
        measured = measure(stage, model, forward, recipe.precision)
    load = Load(**seen) if seen else Load(len(images), 8)
    return measured, step_cost(recipe, config, load), stage, load


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/shapes"))
    parser.add_argument("--images", type=int, default=4, help="of a micro-batch")
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--repeats", type=int, default=3, help="steps timed; the fastest counts")
    args = parser.parse_args()
    found = read_training_images(args.data, "train", TEMPLATES["brief"], tuple(TASKS))
    print(f"{date.today()}, {processor_name()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
          f"torch {torch.__version__}, transformers {transformers.__version__}; "
          f"{args.images} images a micro-batch, precision {args.precision}. Estimated / measured:\n")  # fmt: skip
    print("| size | stage | parameters, gradients, moments (MB) | kept (MB) | with checkpointing | peak (MB) | "
          "with checkpointing | GFLOP | recomputed | s a step | MFU |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for size, make in SIZES.items():
        config = make()
        processor = GromaProcessor(train_tokenizer(corpus(found[:500], TEMPLATES["brief"]), config), config)
        for name in STAGES:
            recipe = recipe_of(name, args.images, args.precision)
            measured, estimated, stage, _ = compare(make(), recipe, processor, found[: args.images])
            peak = matmul_rate()
            seconds, fixed = timed_step(stage, recipe, found[: args.images], args.repeats)
            peak = max(peak, matmul_rate())
            columns = [(estimate(recipe, model=stage.model).total / 1e6, fixed / 1e6),
                       *((a / 1e6, b / 1e6) for a, b in zip(estimated.kept, measured.kept)),
                       *((a / 1e6, b / 1e6) for a, b in zip(estimated.peak, measured.peak)),
                       (estimated.flops / 1e9, measured.flops / 1e9),
                       (estimated.recomputed / 1e9, measured.recomputed / 1e9)]  # fmt: skip
            cells = " | ".join(f"{a:.1f} / {b:.1f}" for a, b in columns)
            print(f"| {size} | {name} | {cells} | {seconds:.2f} | {measured.flops / seconds / peak:.2f} |", flush=True)


def timed_step(stage: DetectStage | LanguageStage, recipe: Recipe, images: list[TrainingImage],
               repeats: int) -> tuple[float, int]:  # fmt: skip
    """Seconds of the fastest step (without decoding pictures), and bytes of parameters, gradients and moments."""
    optimizer = torch.optim.AdamW(parameter_groups(stage, recipe), lr=1e-5)
    batch, best, gradients = stage.collate(images, random.Random(0)), float("inf"), 0
    bf16 = recipe.precision == "bf16"
    for _ in range(repeats):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = stage(batch)["loss"]
        loss.backward()
        gradients = sum(p.grad.nbytes for p in stage.parameters() if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
        best = min(best, time.perf_counter() - began)
    moments = sum(v.nbytes for s in optimizer.state.values() for k, v in s.items() if k != "step")
    return best, sum(p.nbytes for p in stage.parameters()) + gradients + moments


def matmul_rate(side: int = 1024, repeats: int = 8) -> float:
    """FLOP/s of square float32 products: the fastest of several."""
    a, best = torch.randn(side, side), float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        with ModelFlops() as counter:
            a @ a
        best = min(best, time.perf_counter() - began)
    return counter.total / best


def processor_name() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
