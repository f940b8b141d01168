"""``groma-train``: the three training stages, and groma-tiny from scratch. Here training meets evaluation."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.cli import assemble, make_instruct, train_data
from groma_eval.core import HarnessError
from groma_eval.curves import draw_curves
from groma_eval.leakage import STATEMENT, state_training

if TYPE_CHECKING:
    from groma_model.processing import PromptTemplate
    from groma_model.training.recipe import Recipe

STAGES = ("detect", "align", "instruct")
#: Benchmarks (on the validation split) that a stage is watched with.
HELD_OUT = {
    "detect": ("shapes-proposals-val",),
    "align": ("shapes-rec-val", "shapes-ground-val"),
    "instruct": ("shapes-rec-val", "shapes-ground-val", "shapes-vqa-val"),
}
#: Samples of a mixture, at most, whose words make a tokenizer.
TOKENIZER_SAMPLES = 100_000


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="groma-train", description="Train Groma, stage by stage.")
    commands = parser.add_subparsers(dest="command", required=True)
    for stage in STAGES:
        one = commands.add_parser(stage, help=f"run the {stage} stage from a recipe file (a repeat continues)")
        one.add_argument("--recipe", type=Path, required=True, help="YAML recipe; see recipes/")
        one.add_argument("--init", help="checkpoint to start from (a folder or bundled name); none: random weights")
        _common(one)
        one.add_argument("--steps", type=int, help="instead of the recipe's")
        one.add_argument("--batch-size", type=int, help="instead of the recipe's: images a step, over all processes")
        one.add_argument("--accumulate", type=int, help="instead of the recipe's: micro-batches a process and step")
        one.add_argument("--variant", help="one of the recipe's variants, such as encoder-tuned")
        train_data.add_stage_arguments(one)
    tiny = commands.add_parser("tiny", help="train groma-tiny from scratch: data, three stages, export")
    _common(tiny)
    tiny.add_argument("--recipes", type=Path, default=None, help="folder with tiny-*.yaml (default: the bundled ones)")
    memory = commands.add_parser("estimate", help="memory, arithmetic and time that a recipe takes")
    memory.add_argument("recipe", type=Path, help="YAML recipe with a preset")
    memory.add_argument("--processes", type=int, default=1, help="data-parallel processes (default: 1)")
    memory.add_argument("--variant", help="one of the recipe's variants")
    memory.add_argument("--tokens", type=int, default=128, help="of a dialogue, half of them answers (default: 128)")
    memory.add_argument("--tflops", type=float, help="a device's peak, 10^12 FLOP/s: states step time and days")
    memory.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is assumed (default: 0.4)")
    base = commands.add_parser("assemble", help=assemble.ABOUT)
    assemble.add_arguments(base)
    convert = commands.add_parser("convert", help="rewrite a checkpoint in the other layout, bit for bit")
    convert.add_argument("source", type=Path, metavar="IN", help="folder of a checkpoint")
    convert.add_argument("target", type=Path, metavar="OUT", help="folder to write; must not exist")
    convert.add_argument("--to", choices=("native", "released"), required=True, help="layout to write")
    ablate = commands.add_parser("ablate", help="train variants over seeds and compare them (a repeat continues)")
    ablate.add_argument("name", help="file, or the name of one in recipes/ablations")
    ablate.add_argument("--out", type=Path, required=True, help="folder for trainings, results.json and table.md")
    ablate.add_argument("--data-root", type=Path, default=Path("data/ablations"), help="where the scenes are drawn to")
    ablate.add_argument("--jobs", type=int, default=1, help="trainings at a time, one core each (default: 1)")
    data = commands.add_parser("data", help=train_data.ABOUT)
    train_data.add_arguments(data)
    instructions = commands.add_parser("make-instruct", help=make_instruct.ABOUT)
    make_instruct.add_arguments(instructions)
    curves = commands.add_parser("curves", help="plot a run's loss and accuracy curves")
    curves.add_argument("run", type=Path, help="a folder with detect/, align/, instruct/")
    curves.add_argument("--save", type=Path, required=True, help="PNG file")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="run folder; the checkpoint is written there")
    about = "folder in the shapes layout, or a stage's mixture (MIXTURE.yaml; default: data/shapes)"
    parser.add_argument("--data", type=Path, default=Path("data/shapes"), help=about)
    parser.add_argument("--processes", type=int, default=1, help="data-parallel processes on this machine (default: 1)")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--limit", type=int, help="use the first N training images only")
    parser.add_argument("--workers", type=int, default=0, help="picture-decoding workers a process (default: 0)")
    parser.add_argument("--tflops", type=float, help="a device's peak, 10^12 FLOP/s: the log states the share reached")
    parser.add_argument("--no-evaluate", action="store_true", help="no held-out evaluation while training")


def run_stage(args: argparse.Namespace) -> dict[str, float]:
    """One stage in this process (one of several under a distributed launcher)."""
    import torch

    from groma_eval.benchmarks.shapes.prepare import is_drawn
    from groma_model.checkpoints import load_checkpoint, resolve_checkpoint
    from groma_model.configuration import preset
    from groma_model.data.samples import corpus
    from groma_model.modeling import GromaForConditionalGeneration
    from groma_model.processing import TEMPLATES, GromaProcessor, train_tokenizer
    from groma_model.reconfigure import reconfigured
    from groma_model.training.loop import train
    from groma_model.training.memory import estimate
    from groma_model.training.recipe import load_recipe

    overrides = {
        "seed": args.seed, "steps": args.steps, "batch_size": args.batch_size, "accumulate": args.accumulate
    }  # fmt: skip
    recipe = load_recipe(args.recipe, args.variant, **overrides)
    if recipe.template not in (None, *TEMPLATES):
        raise HarnessError(f"{args.recipe}: template {recipe.template!r} is unknown; known: {', '.join(TEMPLATES)}")
    if recipe.stage != args.command:
        raise HarnessError(f"{args.recipe} is a recipe of stage {recipe.stage!r}, not {args.command!r}")
    torch.manual_seed(recipe.seed)
    mixed = train_data.is_mixture(args.data)
    evaluate = _evaluation(args, recipe.stage, recipe.evaluate_images)
    if args.init:
        model, processor = load_checkpoint(resolve_checkpoint(args.init))
        if recipe.overrides:
            model, new = reconfigured(model, **recipe.overrides)
            processor = GromaProcessor(processor.tokenizer, model.config)
            print(f"{args.recipe}: overrides start anew: {', '.join(new) or 'nothing'}", file=sys.stderr)
        if recipe.template is not None:
            model.config.prompt_template = recipe.template
            processor = GromaProcessor(processor.tokenizer, model.config)
        data = _read(args, recipe, processor.template, tuple(recipe.tasks))
    else:
        named = {} if recipe.template is None else {"prompt_template": recipe.template}
        config = preset(recipe.preset or "tiny", **recipe.overrides, **named)
        template = TEMPLATES[config.prompt_template]
        data = _read(args, recipe, template, ("rec", "grounding", "caption", "scene", "vqa"))
        words = islice(data, TOKENIZER_SAMPLES) if mixed else data
        processor = GromaProcessor(train_tokenizer(corpus(words, template), config), config)
        model = GromaForConditionalGeneration(config)
        if recipe.stage == "detect" and not mixed:
            for item in data:
                item.dialogues.clear()
    data = data if mixed else data[: args.limit]
    if os.environ.get("RANK", "0") == "0":
        print(estimate(recipe, int(os.environ.get("WORLD_SIZE", "1")), model), file=sys.stderr)
    began = time.time()
    metrics = train(model, processor, data, recipe, args.out, evaluate, args.workers, peak_tflops=args.tflops)
    if os.environ.get("RANK", "0") == "0":
        start = resolve_checkpoint(args.init) if args.init else None
        if mixed:
            train_data.state_mixture(args.out, data, start)
        else:
            state_training(args.out, {"shapes": ["train"]} if is_drawn(args.data) else None, start)
    print(f"{recipe.stage}: {recipe.steps} steps in {time.time() - began:.0f} s -> {args.out}", file=sys.stderr)
    return metrics


def _read(args: argparse.Namespace, recipe: Recipe, template: PromptTemplate, tasks: tuple[str, ...]) -> Any:
    """The mixture that ``--data`` names, or the images of its folder with the dialogues of ``tasks``."""
    from groma_model.data.samples import read_training_images

    if train_data.is_mixture(args.data):
        return train_data.open_mixture(args, recipe, template)
    return read_training_images(args.data, "train", template, tasks)


def _evaluation(args: argparse.Namespace, stage: str, images: int) -> Any:
    """The evaluate callback that the arguments ask for, None for no evaluation; the data must be there."""
    from groma_eval.cards import select
    from groma_eval.jobs import default_data_root, read_benchmark

    mixed = train_data.is_mixture(args.data)
    if args.no_evaluate or (mixed and not args.evaluate):
        return None
    root = default_data_root(args.data_root) if mixed or args.data_root else args.data.parent
    if not args.evaluate:
        return held_out(HELD_OUT[stage], root, images)
    cards = select(args.evaluate)
    for card in cards:
        read_benchmark(card, root, need_images=True)
    return held_out([card.name for card in cards], root, images)


def held_out(names: Sequence[str], data_root: Path, images: int) -> Any:
    """The evaluate callback: headline metrics on benchmarks' first images, through the harness."""
    import tempfile

    from groma_eval.models.groma import GromaAdapter
    from groma_eval.run import evaluate
    from groma_model.generation import Groma

    def callback(model: Any, processor: Any, step: int) -> dict[str, float]:
        adapter = GromaAdapter(Groma(model, processor, f"step-{step}"), "held-out")
        with tempfile.TemporaryDirectory() as folder:
            result = evaluate(adapter, list(names), out=folder, data_root=data_root, limit=images, progress=False)
        return {
            f"{name}/{metric}": round(value, 2)
            for name, entry in result.metrics.items()
            for metric, value in entry["metrics"].items()
        }

    return callback


def launch(argv: list[str], processes: int) -> int:
    """Start ``processes`` copies of a stage under torch's launcher, one thread each on CPU."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        "-m", "groma_eval.cli.train", *argv,
    ]  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ, "ACCELERATE_USE_CPU": _use_cpu()}
    return subprocess.call(command, env=environment)


def _use_cpu() -> str:
    import torch

    return "false" if torch.cuda.is_available() else "true"


def run_tiny(args: argparse.Namespace) -> int:
    """Data, the three stages one after the other, and the half-precision export; continues where it stopped."""
    import groma_model.recipes
    import torch

    from groma_eval.benchmarks.shapes.prepare import prepare
    from groma_model.checkpoints import load_checkpoint, save_checkpoint

    recipes = args.recipes or Path(groma_model.recipes.__file__).parent
    seed = 0 if args.seed is None else args.seed
    prepare(args.data.parent, workers=args.processes)
    previous: Path | None = None
    seconds: dict[str, float] = {}
    for stage in STAGES:
        out = args.out / stage
        argv = [stage, "--recipe", str(recipes / f"tiny-{stage}.yaml"), "--out", str(out), "--data", str(args.data),
                "--seed", str(seed), "--processes", str(args.processes), "--workers", str(args.workers)]  # fmt: skip
        if previous is not None:
            argv += ["--init", str(previous)]
        if args.limit:
            argv += ["--limit", str(args.limit)]
        if args.no_evaluate:
            argv += ["--no-evaluate"]
        print(f"groma-train {shlex.join(argv)}", file=sys.stderr)
        if (code := main(argv)) != 0:
            return code
        seconds[stage] = json.loads((out / "finished.json").read_text())["seconds"]
        previous = out
    assert previous is not None
    model, processor = load_checkpoint(previous)
    save_checkpoint(model, processor, args.out / "groma-tiny", torch.float16)
    shutil.copy(previous / STATEMENT, args.out / "groma-tiny" / STATEMENT)
    (args.out / "seconds.json").write_text(json.dumps(seconds, indent=1) + "\n")
    total = sum(seconds.values()) / 60
    print(f"groma-tiny (seed {seed}) in {total:.1f} minutes of training -> {args.out / 'groma-tiny'}", file=sys.stderr)
    return 0


def run_estimate(args: argparse.Namespace) -> int:
    """Print memory with activations and FLOPs; with ``--tflops`` step time and days."""
    from groma_model.training.memory import estimate_step, time_line
    from groma_model.training.recipe import load_recipe

    checks = [("--processes", args.processes, args.processes >= 1, "at least 1"),
              ("--tokens", args.tokens, args.tokens >= 2, "at least 2"),
              ("--tflops", args.tflops, args.tflops is None or args.tflops > 0, "above 0"),
              ("--mfu", args.mfu, 0 < args.mfu <= 1, "above 0 and at most 1")]  # fmt: skip
    for option, value, right, rule in checks:
        if not right:
            raise HarnessError(f"{option} is {value}; it must be {rule}")
    step = estimate_step(load_recipe(args.recipe, args.variant), args.processes, args.tokens)
    print(step)
    if args.tflops is not None:
        print(time_line(step, args.tflops, args.mfu))
    return 0


def run_ablate(args: argparse.Namespace) -> int:
    """Run or continue an ablation; writes and prints its table."""
    import groma_model.recipes

    from groma_eval.ablation import ablation_table, load_ablation, run_ablation

    bundled = Path(groma_model.recipes.__file__).parent / "ablations"
    path = Path(args.name) if args.name.endswith(".yaml") else bundled / f"{args.name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in bundled.glob("*.yaml")))
        raise HarnessError(f"no ablation {args.name!r}; there are: {names}")
    ablation = load_ablation(path)
    text = ablation_table(ablation, run_ablation(ablation, args.out, args.data_root, args.jobs))
    (args.out / "table.md").write_text(text)
    print(text)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv)
    try:
        if args.command == "tiny":
            return run_tiny(args)
        if args.command == "estimate":
            return run_estimate(args)
        if args.command == "assemble":
            return assemble.run(args)
        if args.command == "curves":
            draw_curves(args.run, args.save)
            return 0
        if args.command == "ablate":
            return run_ablate(args)
        if args.command == "data":
            return train_data.run(args)
        if args.command == "make-instruct":
            return make_instruct.run(args)
        if args.command == "convert":
            from groma_model.checkpoints import convert_checkpoint

            convert_checkpoint(args.source, args.target, args.to)
            return 0
        if args.processes > 1 and "LOCAL_RANK" not in os.environ:
            return launch(argv, args.processes)
        run_stage(args)
        return 0
    except (HarnessError, ValueError) as error:
        print(f"groma-train: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
