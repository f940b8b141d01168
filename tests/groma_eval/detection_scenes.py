"""Random detection data sets for the tests of metrics."""

from __future__ import annotations

import numpy as np


def scene(seed: int, crowds: bool = True, many: bool = False) -> tuple[dict, list]:
    """A random LVIS data set with its detections: ties, doubled and empty boxes, crowds, unverified categories."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": int(i), "neg_category_ids": [], "not_exhaustive_category_ids": []} for i in rng.permutation(50)[:5]
    ]
    categories = [
        {"id": int(c), "name": f"c{c}", "frequency": "rcf"[k % 3]} for k, c in enumerate(rng.permutation(20)[:4])
    ]
    annotations, detections = [], []
    for image in images:
        for category in categories:
            place = {"image_id": image["id"], "category_id": category["id"]}
            boxes = []
            for _ in range(int(rng.integers(0, 4))):
                box = [*rng.integers(0, 60, 2).tolist(), *rng.choice([8, 16, 32, 64, 96, 120], 2).tolist()]
                boxes.append(list(boxes[-1]) if boxes and rng.random() < 0.2 else box)
            if not boxes and rng.random() < 0.5:
                image["neg_category_ids"].append(category["id"])
            elif boxes and rng.random() < 0.3:
                image["not_exhaustive_category_ids"].append(category["id"])
            for box in boxes:
                area = box[2] * box[3] * float(rng.choice([1, 0.5]))
                crowd = int(crowds and rng.random() < 0.15)
                annotations.append({"id": len(annotations), **place, "bbox": box, "area": area, "iscrowd": crowd})
                if rng.random() < 0.8:
                    found = (np.array(box) + rng.integers(-8, 9, 4)).clip([-99, -99, 0, 0]).tolist()
                    detections.append({**place, "bbox": found, "score": float(rng.choice([0.1, 0.3, 0.5, 0.9]))})
            for _ in range(int(rng.integers(0, 200 if many else 3))):
                box = rng.integers(0, 100, 4).tolist()
                detections.append({**place, "bbox": box, "score": float(rng.choice([0.1, 0.2, 0.5, 0.9]))})
    rng.shuffle(detections)
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def same(one: dict, other: dict, within: float = 1e-9) -> bool:
    """Whether two sets of figures agree, and are null in the same places."""
    return one.keys() == other.keys() and all(
        (a is None and b is None) or (a is not None and b is not None and abs(a - b) <= within)
        for a, b in ((one[k], other[k]) for k in one)
    )
