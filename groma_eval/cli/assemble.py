"""``groma-train assemble``: a checkpoint to start from, of a pretrained image encoder and language model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from groma_eval.core import HarnessError

ABOUT = "make the checkpoint to start from, of a pretrained image encoder and a language model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``groma-train assemble``."""
    parser.add_argument(
        "--vision", type=Path, required=True, metavar="FOLDER", help="DINOv2 (or CLIP, for the ablation), transformers'"
    )
    parser.add_argument(
        "--llm", type=Path, required=True, metavar="FOLDER", help="LLaMA or Vicuna with its tokenizer, transformers'"
    )
    parser.add_argument("--preset", default="7b", help="sizes of everything else; the two must fit it (default: 7b)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="of the new modules' initial values (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint; says what of the two folders was left out. Raises HarnessError for what does not fit."""
    from groma_model.assemble import assemble

    for option, folder in (("--vision", args.vision), ("--llm", args.llm)):
        if not folder.is_dir():
            raise HarnessError(f"{option} {folder} is not a folder: download the model there first")
    unused = assemble(args.vision, args.llm, args.out, args.preset, args.seed)
    for reason, count in unused.items():
        print(f"left out {count} tensors: {reason}", file=sys.stderr)
    print(f"{args.vision} and {args.llm} -> {args.out}", file=sys.stderr)
    return 0
