"""Where the weights of a loaded model stand and in what form: devices, quantisation, the attention's implementation.

For checkpoints that are large for their device. The language model's decoder layers are nine tenths of a 7B Groma, so
they alone are spread over devices or quantised; everything else stays whole on the main device, where this package
reads its weights directly. Models loaded so are for answering: packed training rows run on one device, with the
package's own attention.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from groma_model.modeling import GromaForConditionalGeneration
from groma_model.ops.attention import NAME

#: Implementations of attention, the default first. They compute the same up to rounding.
ATTENTIONS = (NAME, "sdpa", "eager", "flash_attention_2")
#: bitsandbytes: LLM.int8() with outliers in half precision, and nf4 as the released chat code sets it.
QUANTIZATIONS = ("8bit", "4bit")

#: A parameter of a decoder layer: the layer's index and the part of the layer.
_LAYER = re.compile(r"llm\.model\.layers\.(\d+)\.(\w+)\.")
#: The parts of a decoder layer that hold its Linear modules; the others are norms.
_LINEAR_PARTS = ("self_attn", "mlp")


@dataclass(frozen=True)
class Placement:
    """What :func:`plan` decided.

    ``main``: the device of everything but the decoder layers. ``layers``: the device of each of them.
    """

    main: torch.device
    layers: tuple[torch.device, ...]
    quantization: str | None = None
    attention: str = NAME

    def device_of(self, name: str) -> torch.device:
        """Where the parameter ``name`` of the model is loaded to."""
        match = _LAYER.match(name)
        if match is None:
            return self.main
        # Matrices are quantised on their way from the CPU, so that no device ever holds them all in full.
        if self.quantization is not None and match[2] in _LINEAR_PARTS:
            return torch.device("cpu")
        return self.layers[int(match[1])]


def plan(
    model: GromaForConditionalGeneration,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    device_map: str | Mapping[int, torch.device | str | int] | None = None,
    quantization: str | None = None,
    attn_implementation: str | None = None,
) -> Placement:
    """Check the options of loading and decide where everything goes; ``model`` may still be on the meta device.

    Args:
        dtype: of the parameters.
        device: the main device.
        device_map: ``"auto"`` (see :func:`automatic_layers`), or index of a decoder layer -> device, for any of them;
            the others stay on the main device.
        quantization: one of :data:`QUANTIZATIONS`, of the decoder layers' matrices.
        attn_implementation: one of :data:`ATTENTIONS`, of the language model and the image encoder.

    Raises:
        ValueError: one line that names the choices or the mend.
    """
    attention = _choice("attn_implementation", attn_implementation or NAME, ATTENTIONS)
    if quantization is not None:
        _choice("quantization", quantization, QUANTIZATIONS)
    main = existing_device(device)
    count = model.config.llm_config.num_hidden_layers
    if device_map is None:
        layers = (main,) * count
    elif device_map == "auto":
        layers = automatic_layers(model, main, dtype, quantization)
    elif isinstance(device_map, Mapping):
        unknown = [index for index in device_map if index not in range(count)]
        if unknown:
            raise ValueError(f"device_map names the decoder layer {unknown[0]!r}; there are 0 to {count - 1}")
        layers = tuple(existing_device(device_map.get(index, main)) for index in range(count))
    else:
        raise ValueError(f"device_map is {device_map!r}; it must be 'auto' or a mapping of decoder layers to devices")
    if quantization is not None:
        _check_quantization(quantization)
    if attention == "flash_attention_2":
        _check_flash_attention((main, *layers), dtype)
    return Placement(main, layers, quantization, attention)


def finish(model: GromaForConditionalGeneration, placement: Placement) -> None:
    """Do with a model whose parameters are loaded what its placement asks for."""
    if placement.quantization is not None:
        quantize_layers(model, placement)
    hook_layers(model, placement)
    for part in (model.config.llm_config, model.config.vision_config):
        part._attn_implementation = placement.attention


def existing_device(device: torch.device | str | int) -> torch.device:
    """A device of this machine under one name (``cuda`` and ``cuda:0`` may be the same); a number means CUDA's.

    Raises:
        ValueError: one line, where there is none.
    """
    try:
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type == "meta":  # it holds no numbers
        raise ValueError(f"device {device!r} is none; use cpu, cuda or cuda:NUMBER")
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type != "cuda":
        return found
    count = torch.cuda.device_count()
    index = found.index
    if index is None:
        index = torch.cuda.current_device() if count else 0
    if index >= count:
        raise ValueError(f"device {str(device)!r} is not here; CUDA devices here: {count}")
    return torch.device("cuda", index)


def automatic_layers(
    model: GromaForConditionalGeneration, main: torch.device, dtype: torch.dtype, quantization: str | None = None
) -> tuple[torch.device, ...]:
    """The device of each decoder layer as accelerate's ``infer_auto_device_map`` finds room: CUDA first, then the CPU.

    Off the main device's room goes what stands there anyway; a tenth of every accelerator is left to activations and
    caches. Spreading over CUDA devices has been tested as a plan only: no machine with one was at hand.

    Raises:
        ValueError: the layers do not fit.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import CustomDtype, compute_module_sizes, get_max_memory

    language = model.llm.model
    rest = compute_module_sizes(model, dtype=dtype)[""] - compute_module_sizes(language, dtype=dtype)[""]
    room = {key: size if key == "cpu" else int(0.9 * size) for key, size in get_max_memory().items()}
    mine = main.index if main.type == "cuda" else main.type
    if mine in room:
        room[mine] = max(0, room[mine] - rest)
    kept = {None: dtype, "8bit": torch.int8, "4bit": CustomDtype.INT4}[quantization]
    places = infer_auto_device_map(language, room, no_split_module_classes=["LlamaDecoderLayer"], dtype=kept)
    layers = []
    for index in range(len(language.layers)):
        # What stands on one device is listed once, under the name of the whole.
        place = next(places[name] for name in (f"layers.{index}", "layers", "") if name in places)
        if place == "disk":
            raise ValueError("device_map 'auto': the model is larger than the memory here; take bfloat16 or quantise")
        layers.append(existing_device(place))
    return tuple(layers)


def hook_layers(model: GromaForConditionalGeneration, placement: Placement) -> None:
    """Let each decoder layer away from the main device fetch its inputs and send its outputs back.

    The key/value cache of a layer stays on the layer's device. Between two different devices this has not been run: no
    machine with several was at hand.
    """
    away = {index: device for index, device in enumerate(placement.layers) if device != placement.main}
    if not away:
        return
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for index, device in away.items():
        hook = AlignDevicesHook(execution_device=device, io_same_device=True, skip_keys="past_key_values")
        add_hook_to_module(model.llm.model.layers[index], hook)


def quantize_layers(model: GromaForConditionalGeneration, placement: Placement) -> None:
    """Replace the Linear modules of the decoder layers (on the CPU) by bitsandbytes' on the layers' devices.

    Run on CPUs alone so far: no machine with CUDA was at hand.
    """
    for layer, device in zip(model.llm.model.layers, placement.layers, strict=True):
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, _quantized(child, placement.quantization, device))


def _quantized(linear: nn.Linear, quantization: str | None, device: torch.device) -> nn.Module:
    """A bitsandbytes module with the weight of ``linear``; the weight is quantised by its move to ``device``."""
    from bitsandbytes import nn as bnb

    sizes = (linear.in_features, linear.out_features, linear.bias is not None)
    weight = linear.weight.detach()
    if quantization == "8bit":
        with torch.device("meta"):
            module = bnb.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0)
        weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        kind = {"quant_type": "nf4", "compress_statistics": False}
        with torch.device("meta"):
            module = bnb.Linear4bit(*sizes, compute_dtype=weight.dtype, **kind)
        weight = bnb.Params4bit(weight, requires_grad=False, **kind)
    module.weight = weight.to(device)
    if linear.bias is not None:
        module.bias = nn.Parameter(linear.bias.detach().to(device), requires_grad=False)
    return module


def count_parameters(model: nn.Module) -> int:
    """All parameters, each once; a quantised matrix by its rows and columns, not by the bytes it is packed in."""
    matrices = {id(m.weight): m.in_features * m.out_features for m in model.modules() if isinstance(m, nn.Linear)}
    return sum(matrices.get(id(parameter), parameter.numel()) for parameter in model.parameters())


def _choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose {', '.join(choices[:-1])} or {choices[-1]}")
    return value


def _check_quantization(quantization: str) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"quantization {quantization!r} needs the package bitsandbytes: pip install bitsandbytes")


def _check_flash_attention(devices: Sequence[torch.device], dtype: torch.dtype) -> None:
    from transformers.utils import is_flash_attn_2_available

    halves = dtype in (torch.float16, torch.bfloat16)
    if not halves or any(device.type != "cuda" for device in devices) or not is_flash_attn_2_available():
        raise ValueError(
            "attn_implementation 'flash_attention_2' needs CUDA devices, float16 or bfloat16 and the package flash-attn"
            " (pip install flash-attn); sdpa needs none of them"
        )
