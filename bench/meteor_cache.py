"""METEOR's whole-process time: the Java tool, this harness without its compiled tables (cold), and with them (warm).

    python bench/meteor_cache.py --data .../pycocoevalcap/meteor --references CAPTIONS.json --predictions RESULTS.json

References: COCO captions; predictions: COCO results. Needs METEOR's files, and Java for the first figure. Each time is
that of a process from its start to its end, the best of --repeats; the scores of all must agree to 1e-6. Tokenising,
the same for all, is done beforehand and not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = """
import json, sys
from groma_eval.metrics.meteor import meteor
said, references = json.load(open(sys.argv[1]))
print(json.dumps(meteor(said, references, str.split, sys.argv[2])))
"""


def java(texts: Path, data: Path) -> tuple[float, dict[str, float]]:
    """The jar by its own protocol: a SCORE line an item, then all statistics in one EVAL line."""
    said, references = json.loads(texts.read_text())
    command = ["java", "-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=data, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as tool:

        def ask(line: str) -> str:
            tool.stdin.write(line + "\n")
            tool.stdin.flush()
            return tool.stdout.readline().strip()

        stats = [ask(" ||| ".join(["SCORE", *references[key], text])) for key, text in said.items()]
        scores = [float(ask(" ||| ".join(["EVAL", *stats]))), *(float(tool.stdout.readline()) for _ in said)]
        tool.stdin.close()
    return 100 * scores[-1], {key: 100 * score for key, score in zip(said, scores)}


def timed(command: list[str], cache: Path) -> tuple[float, tuple[float, dict[str, float]]]:
    started = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of meteor-1.5.jar and data/paraphrase-en.gz")
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--java", type=Path, metavar="TEXTS", help=argparse.SUPPRESS)  # the child of the first figure
    args = parser.parse_args()
    if args.java:
        print(json.dumps(java(args.java, args.data)))
        return

    from groma_eval.metrics.ptb import ptb_tokens

    references: dict[str, list[str]] = {}
    for item in json.loads(args.references.read_text())["annotations"]:
        references.setdefault(str(item["image_id"]), []).append(" ".join(ptb_tokens(item["caption"])))
    predictions = json.loads(args.predictions.read_text())
    said = {str(item["image_id"]): " ".join(ptb_tokens(item["caption"])) for item in predictions}
    with tempfile.TemporaryDirectory() as folder:
        texts, cache = Path(folder) / "texts.json", Path(folder) / "cache"
        texts.write_text(json.dumps([said, {key: references[key] for key in said}]))
        ours = [sys.executable, "-c", OURS, str(texts), str(args.data)]
        again = [sys.executable, *sys.argv, "--java", str(texts)]
        runs: dict[str, list[tuple]] = {"java": [], "cold": [], "warm": []}
        for _ in range(args.repeats):  # in turn, so that a busy spell of the machine meets all of them
            shutil.rmtree(cache, ignore_errors=True)
            if shutil.which("java"):
                runs["java"].append(timed(again, cache))
            runs["cold"].append(timed(ours, cache))
            runs["warm"].append(timed(ours, cache))
    best = {name: min(seconds for seconds, _ in found) for name, found in runs.items() if found}
    expected = next(found[0][1] for found in runs.values() if found)
    for name, seconds in best.items():
        corpus, items = runs[name][0][1]
        gap = max(abs(corpus - expected[0]), *(abs(items[key] - expected[1][key]) for key in items)) / 100
        times = f"  {best['java'] / seconds:5.1f}x" if "java" in best else ""
        print(f"{name:5} {seconds:7.2f} s{times}  METEOR {corpus / 100:.6f}  largest difference {gap:.1e}")
        if gap > 1e-6:
            sys.exit(f"{name}: the scores differ")


if __name__ == "__main__":
    main()
