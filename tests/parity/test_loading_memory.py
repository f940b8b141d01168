"""Memory while a large checkpoint is read: near the size of its parameters, never twice as much.

``GROMA_MEMORY_TEST_GB=12`` in the environment makes the checkpoint about that large (needed: as much room on the disk
for temporary files and a third more memory).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from groma_model.checkpoints import stored_name
from groma_model.configuration import GromaConfig, preset
from groma_model.modeling import GromaForConditionalGeneration
from groma_model.processing import GromaProcessor, train_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
SHARDS = 6
#: Reads the checkpoint in a process of its own and prints its memory in bytes. The peak is VmHWM: getrusage's ru_maxrss
#: is the same number, but where the process that started this one was larger it is that one's.
LOAD = """
import json, re, sys
from pathlib import Path

import torch

from groma_model.checkpoints import load_checkpoint

def memory(field):
    return 1024 * int(re.search(rf"{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = memory("VmRSS")
model, _ = load_checkpoint(Path(sys.argv[1]), torch.bfloat16)
wide = {name.split(".")[0] for name, p in model.named_parameters() if p.dtype != torch.bfloat16}
assert wide == {"proposer"} and not any(p.is_meta for p in model.parameters())
parameters = sum(p.numel() for p in model.parameters())
print(json.dumps({"before": before, "peak": memory("VmHWM"), "parameters": parameters}))
"""


def config_with(layers: int) -> GromaConfig:
    """Preset ``7b`` with a narrower image encoder and language model, the latter of ``layers`` layers."""
    vision = dict(model_type="dinov2", hidden_size=512, num_hidden_layers=12, num_attention_heads=8, image_size=518,
                  patch_size=14)  # fmt: skip
    llm = dict(model_type="llama", vocab_size=512, hidden_size=2048, intermediate_size=5504, num_hidden_layers=layers,
               num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=4096, bos_token_id=1,
               eos_token_id=2)  # fmt: skip
    return preset("7b", vision_config=vision, llm_config=llm)


def shapes_of(config: GromaConfig) -> dict[str, torch.Size]:
    """The stored tensors' names and shapes; nothing is allocated."""
    with torch.device("meta"):
        model = GromaForConditionalGeneration(config)
    return {stored_name(name): tensor.shape for name, tensor in model.state_dict().items()}


def write_checkpoint(folder: Path, gigabytes: float) -> None:
    """A random checkpoint of our layout in bfloat16, written shard by shard."""
    one, two = (sum(s.numel() for s in shapes_of(config_with(n)).values()) for n in (1, 2))
    config = config_with(max(1, 1 + round((gigabytes * 1e9 / 2 - one) / (two - one))))
    config.save_pretrained(folder)
    GromaProcessor(train_tokenizer(["locate the red circle"], config), config).save_pretrained(folder)
    shapes = shapes_of(config)
    most = sum(shape.numel() for shape in shapes.values()) / SHARDS
    shard: dict[str, torch.Tensor] = {}
    last = list(shapes)[-1]
    for name, shape in shapes.items():
        shard[name] = torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)
        if name == last or sum(tensor.numel() for tensor in shard.values()) >= most:
            number = len(list(folder.glob("*.safetensors"))) + 1
            save_file(shard, folder / f"model-{number:05}.safetensors", metadata={"format": "pt"})
            shard = {}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    write_checkpoint(folder, float(os.environ.get("GROMA_MEMORY_TEST_GB", "1.5")))
    yield folder
    shutil.rmtree(folder)  # pytest would keep it for three runs


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_reading_takes_little_more_than_the_parameters(checkpoint, capsys):
    files = list(checkpoint.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    assert len(files) > 2
    command = [sys.executable, "-c", LOAD, str(checkpoint)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    taken = found["peak"] - found["before"]
    with capsys.disabled():
        print(
            f"\n{found['parameters'] / 1e6:.0f} M parameters in {size / 1e9:.2f} GB on disk: reading takes "
            f"{taken / 1e9:.2f} GB, {taken / found['parameters']:.2f} bytes a parameter"
        )
    assert size <= found["parameters"] * 2 * 1.01
    assert taken <= 1.3 * size
