"""The forms that RefCOCO circulates in, written from rows of the flat one. Plain writers of their own, for tests."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path

from PIL import Image


def rows_of(pictures: int = 5, objects: int = 3, each: int = 2, width: int = 80, height: int = 60) -> list[dict]:
    """Flat rows with COCO's names, grouped by object."""
    rows = []
    for picture in range(pictures):
        for thing in range(objects):
            box = [round(3.3 * thing + picture, 2), 2.5 * thing, 20.25 + thing, 11.5]
            for number in range(each):
                rows.append(
                    {
                        "img_id": f"COCO_train2014_{picture + 7:012d}_{4 * thing}",
                        "sents": f"thing {thing}, expression {number} – naïve 犬",
                        "bbox": box,
                        "width": width,
                        "height": height,
                    }
                )
    return rows


def objects_of(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by object, in file order."""
    objects: dict[str, list[dict]] = {}
    for row in rows:
        objects.setdefault(row["img_id"], []).append(row)
    return objects


def picture(row: dict) -> str:
    return row["img_id"].rsplit("_", 1)[0]


def coco_form(rows: list[dict], year: int = 2017, dataset: str = "refcoco") -> dict:
    """Groma's and MDETR's: an ``images`` entry an expression, one annotation each."""
    images, annotations = [], []
    for index, row in enumerate(rows):
        name = picture(row)
        images.append(
            {
                "file_name": (name.rsplit("_", 1)[1] if year == 2017 else name) + ".jpg",
                "height": row["height"],
                "width": row["width"],
                "id": 900 + index,
                "original_img_id": int(name.rsplit("_", 1)[1]),
                "caption": row["sents"],
                "dataset_name": dataset,
                "expression_id": index,
            }
        )
        x, y, w, h = row["bbox"]
        annotations.append(
            {"id": 40 + index, "image_id": 900 + index, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
             "category_id": 1}
        )  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}


def refer_content(rows: list[dict], split: str = "val") -> tuple[list[dict], dict]:
    """(references, instances) of the REFER toolbox."""
    references, annotations, images = [], [], {}
    sentence = 0
    for index, (name, given) in enumerate(objects_of(rows).items()):
        first = given[0]
        image_id = int(picture(first).rsplit("_", 1)[1])
        sentences = []
        for row in given:
            sentences.append({"raw": row["sents"].upper(), "sent": row["sents"], "sent_id": sentence, "tokens": []})
            sentence += 1
        references.append(
            {
                "ref_id": 10 + index,
                "ann_id": 5000 + index,
                "category_id": 1,
                "file_name": name + ".jpg",
                "image_id": image_id,
                "sent_ids": [s["sent_id"] for s in sentences],
                "sentences": sentences,
                "split": split,
            }
        )
        annotations.append({"id": 5000 + index, "image_id": image_id, "bbox": first["bbox"], "category_id": 1})
        images[image_id] = {
            "id": image_id, "file_name": picture(first) + ".jpg", "width": first["width"], "height": first["height"],
        }  # fmt: skip
    return references, {"images": list(images.values()), "annotations": annotations}


def python2_pickle(value) -> bytes:
    """``value`` as Python 2 pickles it with protocol 2: text as bytes (SHORT_BINSTRING), here in UTF-8."""

    def item(value) -> bytes:
        if isinstance(value, dict):
            return b"}(" + b"".join(item(key) + item(entry) for key, entry in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(item, value)) + b"e"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        raw = value.encode()
        return b"U" + bytes([len(raw)]) + raw

    return b"\x80\x02" + item(value) + b"."


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "JPEG")
    return file.getvalue()


def lmms_rows(rows: list[dict], sizes: bool = False) -> list[dict]:
    """Rows as ``lmms-lab/RefCOCO`` has them; with ``sizes`` columns of width and height in place of the picture."""
    raw: dict[tuple[int, int], bytes] = {}
    result = []
    for number, (name, given) in enumerate(objects_of(rows).items()):
        size = (given[0]["width"], given[0]["height"])
        if not sizes and size not in raw:
            raw[size] = jpeg(*size)
        head = dict(zip(("width", "height"), size)) if sizes else {"image": {"bytes": raw[size], "path": None}}
        result.append(
            {
                "question_id": str(number),
                **head,
                "question": "Please carefully observe the area circled in the image and come up with a caption.",
                "answer": [row["sents"] for row in given],
                "segmentation": [0.0, 1.0],
                "bbox": [float(value) for value in given[0]["bbox"]],
                "iscrowd": 0,
                "file_name": name + ".jpg",
            }
        )
    return result


def jxu_rows(rows: list[dict], split: str = "val") -> list[dict]:
    """Rows as ``jxu124/refcoco`` has them; the column ``bbox`` is xyxy there."""
    result = []
    for name, given in objects_of(rows).items():
        x, y, w, h = given[0]["bbox"]
        entry = {"file_name": picture(given[0]) + ".jpg", "width": given[0]["width"], "height": given[0]["height"]}
        result.append(
            {
                "file_name": name + ".jpg",
                "split": split,
                "sentences": [{"raw": "?", "sent": row["sents"], "sent_id": 1, "tokens": []} for row in given],
                "raw_anns": json.dumps({"bbox": [x, y, w, h], "iscrowd": 0}),
                "raw_image_info": json.dumps(entry),
                "bbox": [x, y, x + w, y + h],
                "captions": [row["sents"] for row in given],
            }
        )
    return result


def write_parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_refer(folder, rows, split="val", by="unc", dump=lambda value: pickle.dumps(value, 2)):
    folder.mkdir(parents=True, exist_ok=True)
    references, instances = refer_content(rows, split)
    (folder / f"refs({by}).p").write_bytes(dump(references))
    (folder / "instances.json").write_text(json.dumps(instances))
    return folder
