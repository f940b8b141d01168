"""Time ``groma-eval score caption`` against pycocoevalcap with Java, whole processes, in one run.

    python bench/caption_speed.py --references CAPTIONS.json --predictions RESULTS.json --pycocoevalcap DIR

DIR is the folder that holds the package ``pycocoevalcap`` (1.2, unpacked), whose METEOR data both sides use; ``java``
must be on the path. The reference process tokenises and computes BLEU, METEOR, ROUGE-L and CIDEr, without SPICE. Ours
runs cold, with no METEOR cache (an empty cache folder of its own), and warm, with the cache of that run. Each is
repeated and the fastest counts; bytecode is kept between the runs, as in any installation. Exit status 1 where a figure
differs by more than 1e-6; the times decide nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DIGITS = 1e-6
# Run with the reference package on the path: what its COCOEvalCap does, less SPICE and the loading through pycocotools.
REFERENCE = """
import json, sys
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

references, predictions, out = sys.argv[1:]
said = {row["image_id"]: [row] for row in json.load(open(predictions))}
captions = {}
for row in json.load(open(references))["annotations"]:
    captions.setdefault(row["image_id"], []).append(row)
captions = {key: captions[key] for key in said}
tokenizer = PTBTokenizer()
captions, said = tokenizer.tokenize(captions), tokenizer.tokenize(said)
metrics = {f"BLEU_{n}": score for n, score in enumerate(Bleu(4).compute_score(captions, said, verbose=0)[0], 1)}
for name, scorer in (("METEOR", Meteor()), ("ROUGE_L", Rouge()), ("CIDEr", Cider())):
    metrics[name] = float(scorer.compute_score(captions, said)[0])
json.dump({"metrics": metrics}, open(out, "w"))
"""


def main() -> int:
    """Print a line a way and one a difference; 1 where figures differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--references", required=True, type=Path, metavar="CAPTIONS.json")
    add("--predictions", required=True, type=Path, metavar="RESULTS.json")
    add("--pycocoevalcap", required=True, type=Path, metavar="DIR")
    add("--repeats", type=int, default=3)
    add("--json", type=Path, metavar="OUT", help="also write the seconds to this file")
    args = parser.parse_args()
    files = [str(args.references), str(args.predictions)]
    ours = ["-m", "groma_eval.cli.evaluate", "score", "caption", "--only-predicted", "--references", files[0]]
    ours += ["--predictions", files[1], "--meteor-data", str(args.pycocoevalcap / "pycocoevalcap" / "meteor")]
    seconds: dict[str, list[float]] = {"pycocoevalcap": [], "cold": [], "warm": []}
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        bytecode = {"PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        for repeat in range(args.repeats):  # in turn, so that a busy spell of the machine meets all of them
            cache = {"XDG_CACHE_HOME": str(Path(folder) / f"cache{repeat}")}
            ways = {
                "pycocoevalcap": (["-c", REFERENCE, *files, str(out)], {"PYTHONPATH": str(args.pycocoevalcap)}),
                "cold": ([*ours, "--json", str(out)], cache),
                "warm": ([*ours, "--json", str(out)], cache),
            }
            for name, (words, environment) in ways.items():
                seconds[name].append(timed([sys.executable, *words], {**bytecode, **environment}))
                figures[name] = json.loads(out.read_text())["metrics"]
    reference = min(seconds["pycocoevalcap"])
    for name, taken in seconds.items():
        all_of_them = ", ".join(f"{value:.2f}" for value in taken)
        print(f"{name:<14}{min(taken):7.2f} s  {reference / min(taken):5.1f} times as fast  ({all_of_them})")
    if args.json:
        args.json.write_text(json.dumps(seconds) + "\n")
    differing = [
        f"{way}: {name} is {figures[way][name]}, by the reference {value}"
        for way in ("cold", "warm")
        for name, value in figures["pycocoevalcap"].items()
        if abs(figures[way][name] - value) > DIGITS
    ]
    print("\n".join(differing) or "all figures equal the reference's to the sixth digit")
    return bool(differing)


def timed(words: list[str], environment: dict[str, str]) -> float:
    """Wall seconds of one process; its output is shown only where it fails."""
    started = time.perf_counter()
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
