"""Reading, writing and refusing checkpoints in the released layout, on the fixture checkpoint."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from groma_eval.cli.train import main as groma_train
from groma_model.checkpoints import convert_checkpoint, load_checkpoint, save_checkpoint
from groma_model.configuration import preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.released import released_config


@pytest.fixture(scope="module")
def released(shared) -> Path:
    return shared / "parity" / "small" / "checkpoint"


@pytest.fixture(scope="module")
def tensors(released) -> dict[str, torch.Tensor]:
    return load_file(released / "model.safetensors")


@pytest.fixture
def copy(released, tmp_path) -> Path:
    """The checkpoint without its tensors, writable."""
    target = tmp_path / "checkpoint"
    target.mkdir()
    for path in released.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, target / path.name)
    return target


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(t.dtype == b[n].dtype and torch.equal(t, b[n]) for n, t in a.items())


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder)[0].state_dict()


def test_round_trips_are_bit_exact(released, tensors, tmp_path):
    assert groma_train(["convert", str(released), str(tmp_path / "native"), "--to", "native"]) == 0
    assert groma_train(["convert", str(tmp_path / "native"), str(tmp_path / "back"), "--to", "released"]) == 0
    assert same(load_file(tmp_path / "back" / "model.safetensors"), tensors)
    for path in released.iterdir():
        if path.suffix != ".safetensors":
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()
    convert_checkpoint(tmp_path / "back", tmp_path / "again", "native")
    native = load_file(tmp_path / "native" / "model.safetensors")
    assert same(load_file(tmp_path / "again" / "model.safetensors"), native)
    one, two = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("native", "again"))
    assert one == two
    loaded, processor = load_checkpoint(tmp_path / "native")
    assert same(loaded.state_dict(), state(released))
    text = "Locate <p>red square</p> in the image. <r5></roi> end"
    assert processor.encode(text) == load_checkpoint(released)[1].encode(text)


def test_every_form_of_the_tensor_files_is_read(tensors, copy):
    """Either name of the shared heads, several safetensors files, pickled shards."""
    twice = {name for name in tensors if ".decoder." in name and name.replace(".decoder.", ".") in tensors}
    assert len(twice) == 38
    forms = [
        {n: t for n, t in tensors.items() if n not in twice},
        {
            n: t
            for n, t in tensors.items()
            if n.replace("ddetr_transformer.", "ddetr_transformer.decoder.") not in twice
        },
    ]
    expected = None
    for form in [tensors, *forms]:
        save_file({n: t.contiguous() for n, t in form.items()}, copy / "model.safetensors")
        found = state(copy)
        expected = expected or found
        assert same(found, expected)
        (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    for suffix, write in (("safetensors", save_file), ("bin", torch.save)):
        parts = []
        for k in (0, 1):
            path = copy / (f"model-{k}.safetensors" if suffix == "safetensors" else f"pytorch_model-{k}.bin")
            write({n: tensors[n] for n in names[k::2]}, path)
            parts.append(path)
        assert same(state(copy), expected)
        for path in parts:
            path.unlink()


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_wrong_tensors_are_refused_in_one_line(tensors, copy):
    refused(copy, "no *.safetensors")
    path = copy / "model.safetensors"
    some = {n: t for n, t in tensors.items() if not n.startswith("img_txt_bridge.0")}
    save_file(some, path)
    refused(copy, "img_txt_bridge.0")
    save_file(tensors | {"mm_projector.weight": torch.zeros(2)}, path)
    refused(copy, "mm_projector.weight")
    save_file(tensors | {"img_txt_bridge.0.bias": torch.zeros(3)}, path)
    refused(copy, "img_txt_bridge.0.bias", "(3,)")
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(copy, "model.safetensors", "cannot be read")
    path.unlink()
    torch.save(dict(tensors), copy / "pytorch_model.bin")
    whole = (copy / "pytorch_model.bin").read_bytes()
    (copy / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    refused(copy, "pytorch_model.bin", "cannot be read")
    index = {"weight_map": {"a": "pytorch_model.bin", "b": "pytorch_model-00002.bin"}}
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    refused(copy, "pytorch_model-00002.bin", "fetch it again")


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_nothing_in_a_checkpoint_is_executed(copy, tmp_path):
    trapped = tmp_path / "executed"
    torch.save({"llm.model.norm.weight": Trap(str(trapped))}, copy / "pytorch_model.bin")
    refused(copy, "pytorch_model.bin", "not read")
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap(str(trapped))}))
    refused(copy, "pytorch_model.bin")
    assert not trapped.exists()


def change(folder: Path, **fields) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for name, value in fields.items():
        *parents, last = name.split("__")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(values))


def test_configurations_of_other_models_are_refused(copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "llava", "mm_vision_tower": "openai/clip"}))
    refused(copy, "another kind", "llava")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"perceiver_cfg__ddetr_cfg__new_head": 3}, ("ddetr_cfg", "new_head")),
        ({"llm_cfg__mm_projector_type": "mlp"}, ("llm_cfg", "mm_projector_type")),
        ({"perceiver_cfg__ddetr_cfg__num_feature_levels": 4}, ("num_feature_levels", "only 1")),
        ({"num_new_token": 113}, ("num_new_token", "113")),
    ],
)
def test_unknown_fields_of_a_part_are_refused(copy, fields, words):
    change(copy, **fields)
    refused(copy, *words)


def test_traps_are_warned_of(tensors, copy):
    save_file(tensors, copy / "model.safetensors")
    change(copy, nms_thres=0, freeze_llm=True)
    with pytest.warns(UserWarning, match="config.json") as caught:
        load_checkpoint(copy)
    messages = [str(w.message) for w in caught]
    assert any("nms_thres is 0" in m for m in messages)
    assert any("freeze_llm" in m for m in messages)


def test_other_sizes_of_pictures_are_warned_of_once(tensors, copy):
    """The released chat code resizes and crops as preprocessor_config.json says; ours always resizes to image_size."""
    save_file(tensors, copy / "model.safetensors")
    path = copy / "preprocessor_config.json"
    transform = json.loads(path.read_text())
    assert transform["size"] == {"shortest_edge": 256}
    assert not transform["do_resize"]
    quiet = {"do_resize": True, "size": {"height": 448, "width": 448}, "do_center_crop": False}
    for same in (transform, transform | quiet):
        path.write_text(json.dumps(same))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="preprocessor_config")
            load_checkpoint(copy)
    path.write_text(json.dumps(transform | {"do_resize": True, "do_center_crop": True}))
    with pytest.warns(UserWarning, match="preprocessor_config.json") as caught:
        load_checkpoint(copy)
    (message,) = (text for w in caught if "preprocessor_config" in (text := str(w.message)))
    for words in ("size {'shortest_edge': 256}", "crop_size {'height': 224, 'width': 224}", "448 x 448"):
        assert words in message


def test_what_a_released_checkpoint_cannot_hold_is_named(released, tmp_path):
    with pytest.raises(ValueError, match="image_size"):
        released_config(preset("tiny"))
    with pytest.raises(ValueError, match="box_geometry"):
        released_config(preset("7b", compatibility="released", box_geometry="xyxy"))
    model, processor = load_checkpoint(released)
    save_checkpoint(model, processor, tmp_path / "native")
    with pytest.raises(ValueError, match="already"):
        convert_checkpoint(released, tmp_path / "x", "released")
    with pytest.raises(ValueError, match="exists"):
        convert_checkpoint(released, tmp_path / "native", "native")
    assert not list(tmp_path.glob("*.partial"))


def test_transformers_auto_classes_load_it(released, tmp_path):
    from transformers import AutoConfig, AutoModel, AutoProcessor

    import groma_model.auto  # noqa: F401 - registers the classes

    model, processor = load_checkpoint(released)
    save_checkpoint(model, processor, tmp_path / "native")
    assert AutoConfig.from_pretrained(tmp_path / "native").compatibility == "released"
    again = AutoModel.from_pretrained(tmp_path / "native")
    assert isinstance(again, GromaForConditionalGeneration)
    assert same(again.state_dict(), model.state_dict())
    assert AutoProcessor.from_pretrained(tmp_path / "native").ids == processor.ids
