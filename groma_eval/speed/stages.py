"""Where the time and the work go: seconds and counted FLOPs a stage, the rate of a matrix product, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from groma_model.generation import Groma

#: The stages in order; what is in none of them (tokenising, reading answers, Python between) is the rest.
STAGES = ("pictures", "image encoder", "proposer", "region encoder", "prefix prefill", "questions + decode")
REST = "rest"
#: Why a stage may take more than twice what its counted FLOPs allow: what it does beside large products.
REASONS = {
    "image encoder": "norms, GELU, softmax and copies count no FLOPs",
    "proposer": "sampling points of the maps, NMS and sorting count no FLOPs; its products are small",
    "region encoder": "resizing, group norms and RoIAlign count no FLOPs",
    "prefix prefill": "norms, rotary embedding, SiLU, softmax and copies of the cache count no FLOPs",
    "questions + decode": "as the prefix; and the pass after the first reads all weights for one token a question",
}


@dataclass
class Stages:
    """Reads a meter (a clock, a counter) at the beginning and end of each stage. A stage within another counts alone.

    ``read`` takes a mark and ``between`` the distance of two; marks are compared only when ``totals`` is called, so
    that a device's events need not be waited for.
    """

    read: Callable[[], Any] = time.perf_counter
    between: Callable[[Any, Any], float] = lambda start, end: end - start
    _open: list[str] = field(default_factory=list)
    _spans: list[tuple[str, str | None, Any, Any]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Everything within belongs to the stage ``name``."""
        outer = self._open[-1] if self._open else None
        self._open.append(name)
        start = self.read()
        try:
            yield
        finally:
            self._spans.append((name, outer, start, self.read()))
            self._open.pop()

    def totals(self) -> dict[str, float]:
        """What each stage took, without the stages within it."""
        found: dict[str, float] = defaultdict(float)
        for name, outer, start, end in self._spans:
            amount = self.between(start, end)
            found[name] += amount
            if outer is not None:
                found[outer] -= amount
        return dict(found)


def clock(device: torch.device) -> Stages:
    """Seconds: by the device's own events on CUDA, where calls return before their work is done."""
    if device.type != "cuda":
        return Stages()

    def event() -> torch.cuda.Event:
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark

    def seconds(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return start.elapsed_time(end) / 1000

    return Stages(event, seconds)


@contextmanager
def watched(groma: Groma, stages: Stages) -> Iterator[None]:
    """Within, the calls that make up the stages are metered."""
    model = groma.model
    calls = [
        (groma.processor, "pixel_values", "pictures"),
        (model.vision_encoder, "forward", "image encoder"),
        (model, "image_tokens", "image encoder"),
        (model, "propose", "proposer"),  # the image encoder within it counts alone
        (model.region_encoder, "fused_maps", "region encoder"),
        (model.region_encoder, "encode", "region encoder"),
        (groma, "_prefill", "prefix prefill"),
        (groma, "_decode", "questions + decode"),
    ]
    with ExitStack() as stack:
        for owner, name, stage in calls:
            stack.enter_context(replaced(owner, name, _metered(getattr(owner, name), stages, stage)))
        yield


def _metered(plain: Callable[..., Any], stages: Stages, stage: str) -> Callable[..., Any]:
    def metered(*args: Any, **kwargs: Any) -> Any:
        with stages(stage):
            return plain(*args, **kwargs)

    return metered


@contextmanager
def replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    """Within, the object's own attribute ``name`` is ``by``; its class stays as it is."""
    had, before = name in owner.__dict__, owner.__dict__.get(name)
    setattr(owner, name, by)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def count_flops(groma: Groma, work: Callable[[], None]) -> dict[str, float]:
    """Floating point operations of ``work`` by stage, as dispatched: products, convolutions, attention.

    An addition and a multiplication are two. Element-wise work, RoIAlign and sampling are not counted.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The fused kernels of some devices are unknown to the counter; the plain products are what they compute.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        stages = Stages(counter.get_total_flops)
        with watched(groma, stages):
            work()
    return stages.totals()


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """FLOP/s of a product of two square matrices, the best of those that fit in ``seconds``: what the device can do."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + seconds
    left @ right
    while time.perf_counter() < until:
        wait(device)
        start = time.perf_counter()
        left @ right
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def wait(device: torch.device) -> None:
    """Return when the device's work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Most bytes held so far, and of what."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "allocated on the device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of the process"
