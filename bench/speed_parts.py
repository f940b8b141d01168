"""What each part of the shared way saves: the same questions with one part turned off at a time, in turns.

    python bench/speed_parts.py [--images 16] [--rounds 5] [--json FILE]

Answers of all ways are compared; a difference is an error. Times are the least over the rounds, as what else the
machine does only adds: seconds on CUDA, on the CPU those that the process itself had (take one thread,
OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from groma_eval.provenance import hardware, versions
from groma_eval.speed.stages import replaced, wait
from groma_eval.speed.subject import endless, fix_regions, loaded_model
from groma_eval.speed.workload import picture, read_workload
from groma_model import decoding, generation, prefixes
from groma_model.generation import Groma, Query, Scene

NEW_TOKENS = {"locate": 3, "describe": 8}
Queries = list[list[Query]]


def together(groma: Groma, scenes: list[Scene], queries: Queries, tokens: int) -> None:
    """The shared way."""
    groma.answer(scenes, queries, tokens)


def picture_by_picture(groma: Groma, scenes: list[Scene], queries: Queries, tokens: int) -> None:
    """A picture's questions together, each picture by itself."""
    for scene, asked in zip(scenes, queries, strict=True):
        groma.answer([scene], [asked], tokens)


def question_by_question(groma: Groma, scenes: list[Scene], queries: Queries, tokens: int) -> None:
    """Every question by itself behind the prefix that its picture keeps."""
    for scene, asked in zip(scenes, queries, strict=True):
        for query in asked:
            groma.answer([scene], [[query]], tokens)


@contextmanager
def without(part: str) -> Iterator[None]:
    """Within, one part of the shared way is off."""
    with ExitStack() as stack:
        if part == "guesses":
            stack.enter_context(replaced(decoding, "guess_next", lambda *_: []))
        elif part == "prefixes prefilled together":
            stack.enter_context(replaced(prefixes, "PASS_TOKENS", 1))
        elif part == "sharing with users' boxes":
            plain = prefixes._with_regions

            def alone(*args: Any) -> prefixes.Prefix:
                found = plain(*args)
                found.shared, found.shared_regions = 1, 0  # the first token alone: a stem is not empty
                return found

            stack.enter_context(replaced(prefixes, "_with_regions", alone))
        elif part == "region tokens shared with users' boxes":
            plain_boxed = generation.boxed_prefixes

            def encoded(model: Any, processor: Any, own: Any, asked: Any) -> list[prefixes.Prefix]:
                found = plain_boxed(model, processor, own, asked)
                for prefix in found:
                    boxes = torch.tensor(prefix.boxes, device=model.device)
                    prefix.region_tokens = model.encode_regions(own.scene.region_maps, [boxes])[0]
                return found

            stack.enter_context(replaced(generation, "boxed_prefixes", encoded))
        yield


WAYS: dict[str, list[tuple[str, str, Callable[..., None]]]] = {
    "locate": [
        ("all parts", "", together),
        ("no guesses", "guesses", together),
        ("prefixes one at a time", "prefixes prefilled together", together),
        ("pictures one at a time", "", picture_by_picture),
        ("questions one at a time", "", question_by_question),
    ],
    "describe": [
        ("all parts", "", together),
        ("no shared start", "sharing with users' boxes", together),
        ("all regions encoded again", "region tokens shared with users' boxes", together),
        ("pictures one at a time", "", picture_by_picture),
        ("questions one at a time", "", question_by_question),
    ],
}


def measure(groma: Groma, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Least seconds of each way of each task, from scenes that know their regions only."""
    workload = read_workload(None, images)
    pictures = [picture(index) for index in range(images)]
    asked = {
        "locate": [[Query("ground_one", text) for text in texts] for texts in workload.images],
        "describe": [[Query("describe", boxes=(box(i, k),)) for k in range(len(texts))]
                     for i, texts in enumerate(workload.images)],
    }  # fmt: skip
    clock = time.perf_counter if groma.model.device.type == "cuda" else time.process_time
    found: dict[str, dict[str, float]] = {}
    for task, ways in WAYS.items():
        seconds: dict[str, list[float]] = {name: [] for name, *_ in ways}
        answers: dict[str, list[list[int]]] = {}
        for _ in range(rounds + 1):  # the first warms up
            for name, part, way in ways:
                scenes = groma.perceive_batch(pictures)
                ids: list[list[int]] = []
                with without(part), recorded(groma, ids):
                    wait(groma.model.device)
                    started = clock()
                    way(groma, scenes, asked[task], NEW_TOKENS[task])
                    wait(groma.model.device)
                    seconds[name].append(clock() - started)
                if answers.setdefault(task, ids) != ids:
                    raise SystemExit(f"{task}, {name}: other answers than with all parts")
        found[task] = {name: min(times[1:]) for name, times in seconds.items()}
    return found


def box(image: int, number: int) -> tuple[float, float, float, float]:
    """A user's box, the same for the same numbers."""
    generator = torch.Generator().manual_seed(1000 * image + number)
    x, y, w, h = torch.rand(4, generator=generator).tolist()
    return (0.6 * x, 0.6 * y, 0.6 * x + 0.1 + 0.3 * w, 0.6 * y + 0.1 + 0.3 * h)


@contextmanager
def recorded(groma: Groma, ids: list[list[int]]) -> Iterator[None]:
    """Within, the token ids of all answers are appended to ``ids``."""
    plain = groma._decode

    def decode(*args: Any) -> Any:
        results = plain(*args)
        ids.extend(tokens for tokens, _ in results)
        return results

    with replaced(groma, "_decode", decode):
        yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    groma = loaded_model("groma-tiny", args.device, getattr(torch, args.dtype))
    fix_regions(groma)
    with endless(groma):
        found = measure(groma, args.images, args.rounds)
    for task, ways in found.items():
        print(f"{task}: {args.images} pictures, {NEW_TOKENS[task]} new tokens, seconds without perception")
        for name, seconds in ways.items():
            print(f"  {name:28} {seconds:7.3f}  {seconds / ways['all parts']:5.2f}")
    if args.json:
        record = {"seconds": found, "hardware": hardware(), "versions": versions(), **vars(args), "json": None}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
