"""Finished runs: as far as tables read them, or with their stored answers."""

from __future__ import annotations

import json

from groma_eval.core import ImageAnswer, Prediction, Question, Sample
from groma_eval.store import BenchmarkStore, make_record, predictions_of
from groma_eval.tasks import TASKS

CLEAN = {"status": "clean", "images": 0, "of": 9}
#: RefCOCO's eight benchmarks with family and split, in the paper's order.
PAPER_REC = {
    f"{f}_{s}": (F, s) for f, F in (("refcoco", "RefCOCO"), ("refcoco+", "RefCOCO+")) for s in ("val", "testA", "testB")
}
PAPER_REC |= {f"refcocog_{s}": ("RefCOCOg", s) for s in ("val", "test")}


def write_run(folder, name, benchmarks, run_id=None, counts=None, intervals=None, **model):
    """Write ``benchmarks`` {name: (manifest entry, metrics)} to ``folder``, and give it."""
    folder.mkdir(parents=True)
    entries, results = {}, {}
    for bench, (entry, metrics) in benchmarks.items():
        defaults = {"version": 1, "protocol": "paper", "task": "rec", "deviations": [], "leakage": CLEAN}
        entries[bench] = defaults | entry
        results[bench] = {"metrics": metrics, "counts": counts or {}, "intervals": intervals or {}}
    manifest = {"run_id": run_id or f"run-{name}", "model": {"name": name} | model, "benchmarks": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "metrics.json").write_text(json.dumps(results))
    return folder


BOX = (0.1, 0.1, 0.5, 0.5)


def write_answered(folder, name, rights, each=2, entry=None, first=0, intervals=None):
    """A run of shapes-rec as ``groma-eval run`` stores it: question i, the ``each`` of an image, is answered by its box
    where ``rights[i]`` and by none where not; its group is "a" or "b" in turn. Its id is ``id-NAME``."""
    questions = [
        Question(f"q{first + i}", "ground_one", text=f"thing {i}", target={"boxes": [BOX]}, group="ab"[i % 2])
        for i in range(len(rights))
    ]
    samples, records = [], {}
    for at in range(0, len(rights), each):
        image_id = f"im{at // each}"
        samples.append(Sample(image_id, None, 100, 100, tuple(questions[at : at + each])))
        answers = [
            Prediction(q.id, boxes=[BOX] if right else [], confidences=[1.0] if right else [])
            for q, right in zip(samples[-1].questions, rights[at : at + each])
        ]
        records[image_id] = make_record(ImageAnswer(image_id, answers), None)
    result = TASKS["rec"](samples, predictions_of(records.values()), {}, {})
    entry = {"rules": {}, "finished": True} | (entry or {})
    write_run(folder, name, shapes(result.metrics, **entry), f"id-{name}", intervals=intervals)
    BenchmarkStore(folder / "shapes-rec").finish(samples, records, {s.question_id: s for s in result.scores})
    return folder


def shapes(metrics, **entry):
    return {"shapes-rec": ({"family": "shapes-rec", "split": "test"} | entry, metrics)}


def refcoco(values, **entry):
    return {
        bench: ({"family": f, "split": s} | entry, {"acc@0.5": v} if not isinstance(v, dict) else v)
        for (bench, (f, s)), v in zip(PAPER_REC.items(), values)
    }
