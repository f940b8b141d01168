"""Finished runs as tables read them: manifest.json, metrics.json and, where scores are given, samples.jsonl."""

from __future__ import annotations

import json

CLEAN = {"status": "clean", "images": 0, "of": 9}
#: RefCOCO's eight benchmarks with family and split, in the paper's order.
PAPER_REC = {
    f"{f}_{s}": (F, s) for f, F in (("refcoco", "RefCOCO"), ("refcoco+", "RefCOCO+")) for s in ("val", "testA", "testB")
}
PAPER_REC |= {f"refcocog_{s}": ("RefCOCOg", s) for s in ("val", "test")}


def write_run(folder, name, benchmarks, run_id=None, counts=None, intervals=None, scores=None, **model):
    """Write ``benchmarks`` {name: (manifest entry, metrics)} to ``folder``; ``scores`` are {benchmark: rows}, a row
    (question id, image id, group, scores). Gives the folder."""
    folder.mkdir(parents=True)
    entries, results = {}, {}
    for bench, (entry, metrics) in benchmarks.items():
        defaults = {"version": 1, "protocol": "paper", "task": "rec", "deviations": [], "leakage": CLEAN}
        entries[bench] = defaults | entry
        results[bench] = {"metrics": metrics, "counts": counts or {}, "intervals": intervals or {}}
    for bench, rows in (scores or {}).items():
        keys = ("id", "image_id", "group", "scores")
        (folder / bench).mkdir()
        lines = (json.dumps(dict(zip(keys, row))) + "\n" for row in rows)
        (folder / bench / "samples.jsonl").write_text("".join(lines))
    manifest = {"run_id": run_id or f"run-{name}", "model": {"name": name} | model, "benchmarks": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "metrics.json").write_text(json.dumps(results))
    return folder


def shapes(metrics, **entry):
    return {"shapes-rec": ({"family": "shapes-rec", "split": "test"} | entry, metrics)}


def refcoco(values, **entry):
    return {
        bench: ({"family": f, "split": s} | entry, {"acc@0.5": v} if not isinstance(v, dict) else v)
        for (bench, (f, s)), v in zip(PAPER_REC.items(), values)
    }
