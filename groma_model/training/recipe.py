"""A training recipe: one YAML file a stage, every number in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

STAGES = ("detect", "align", "instruct")
#: Whose objectness head a detection data set trains (see the detection loss).
SOURCES = ("coco", "sa1b", "both")
#: What the random draws of a step hang on; how the parameters lie in several processes.
DRAWS, SHARDINGS = ("batch", "image"), ("none", "full")
#: Where the curves are written, beside log.csv.
LOGGINGS = ("csv", "tensorboard")
#: The linear maps of a layer of the language model.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters of the language model's linear maps ``targets``: W + (alpha / rank) B A, B and A trained.

    ``dropout`` acts on what enters A.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = LINEAR

    def __post_init__(self) -> None:
        number = (int, float)
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"lora: rank is {self.rank!r}; it must be a whole number from 1")
        if type(self.alpha) not in number or not self.alpha > 0:
            raise ValueError(f"lora: alpha is {self.alpha!r}; it must be a number above 0")
        if type(self.dropout) not in number or not 0 <= self.dropout < 1:
            raise ValueError(f"lora: dropout is {self.dropout!r}; it must be from 0 to below 1")
        if not isinstance(self.targets, (list, tuple)) or not self.targets or set(self.targets) - set(LINEAR):
            raise ValueError(f"lora: targets is {self.targets!r}; it must be a list of some of {', '.join(LINEAR)}")
        object.__setattr__(self, "targets", tuple(self.targets))


def _lora(given: Any) -> Lora:
    known = [f.name for f in fields(Lora)]
    if not isinstance(given, dict):
        raise ValueError(f"lora is {given!r}; it must be a mapping of {', '.join(known)}")
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"lora: unknown setting {unknown[0]!r}; known: {', '.join(known)}")
    return Lora(**given)


@dataclass(frozen=True)
class Recipe:
    """What one stage trains and how. ``trainable`` names the modules of the model; the rest is frozen.

    ``tasks`` gives the number of dialogues drawn an image and step, by task. ``loss`` holds the stage's loss options
    (keywords of :func:`groma_model.training.detection_loss.detection_loss` for ``detect``, plus
    ``attribute_weight`` and ``box_jitter``; ``pointer_weight`` of region tokens and ``task_weights`` by task for the
    language stages).

    ``batch_size`` counts the images of a step over all processes. Each process takes its share in ``accumulate``
    micro-batches; the losses are normalised over the whole step, so neither number changes what is computed.

    ``draws``: random draws (dialogues, box jitter, region numbers) hang on (seed, step, process) with ``"batch"``, on
    (seed, step, place in the batch) with ``"image"``: only these are the same for any processes and ``accumulate``.

    ``gradient_checkpointing``: layers of image encoder and language model are computed again in the backward pass.
    ``keep_best``: name of a held-out metric (``shapes-rec-val/acc@0.5``); the model with its highest value is kept in
    ``OUT/best``. ``sharding``: ``"full"`` divides parameters, gradients and optimiser states among the processes.
    ``template``: prompt template of the data and of the checkpoint, instead of the initial model's.
    ``lora``: adapters on the language model, whose own weights stay as they are (settings of :class:`Lora`); they train
    beside the modules of ``trainable`` and are merged into the checkpoint. ``logging``: ``"tensorboard"`` writes the
    curves for TensorBoard as well.
    """

    stage: str
    steps: int
    batch_size: int
    lr: float
    trainable: tuple[str, ...]
    preset: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = 1e-4
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.999)
    lr_scale: dict[str, float] = field(default_factory=dict)
    max_grad_norm: float = 1.0
    min_lr: float = 0.0
    tasks: dict[str, int] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    precision: str = "no"
    threads: int | None = None
    save_every: int = 200
    evaluate_every: int = 500
    evaluate_images: int = 100
    seed: int = 0
    accumulate: int = 1
    draws: str = "batch"
    gradient_checkpointing: bool = False
    keep_best: str | None = None
    sharding: str = "none"
    template: str | None = None
    lora: Lora | None = None
    logging: str = "csv"

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage is {self.stage!r}; it must be one of {', '.join(STAGES)}")
        if self.stage == "detect" and self.loss.get("source") not in SOURCES:
            raise ValueError(f"a detect recipe needs loss: {{source: one of {', '.join(SOURCES)}}}")
        choices = (("draws", self.draws, DRAWS), ("sharding", self.sharding, SHARDINGS),
                   ("logging", self.logging, LOGGINGS))  # fmt: skip
        for name, value, allowed in choices:
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        if type(self.accumulate) is not int or self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate!r}; it must be a whole number from 1")
        if self.stage != "detect" and "proposer" in self.trainable:
            raise ValueError("trainable: the proposer gets no gradient from the language loss; train it with detect")
        if self.lora is not None:
            if not isinstance(self.lora, Lora):
                object.__setattr__(self, "lora", _lora(self.lora))
            if self.stage == "detect" or "llm" in self.trainable:
                reason = "which detect does not run" if self.stage == "detect" else "which trainable trains whole"
                raise ValueError(f"lora adapts the language model, {reason}: leave one of them out")

    def to_dict(self) -> dict[str, Any]:
        """All settings, for the record kept beside the checkpoint."""
        return asdict(self)


def load_recipe(path: str | Path, variant: str | None = None, **overrides: Any) -> Recipe:
    """Read a recipe; ``variant`` names one of the file's ``variants``; ``overrides`` replace single settings.

    Raises:
        ValueError: naming file and field.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"recipe {path} is missing")
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"recipe {path} must be a mapping of settings")
    variants = data.pop("variants", {})
    if variant is not None:
        if variant not in variants:
            raise ValueError(f"recipe {path} has no variant {variant!r}; it has: {', '.join(variants) or 'none'}")
        data |= variants[variant]
    known = {f.name for f in fields(Recipe)}
    for name in [*data, *overrides]:
        if name not in known:
            raise ValueError(f"recipe {path}: unknown setting {name!r}; known: {', '.join(sorted(known))}")
    data |= {k: v for k, v in overrides.items() if v is not None}
    for name in ("trainable", "betas"):
        if name in data:
            data[name] = tuple(data[name])
    try:
        return Recipe(**data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"recipe {path}: {error}") from None


def recipe_variants(path: str | Path) -> list[str]:
    """Names of the variants that a recipe file holds."""
    return list(yaml.safe_load(Path(path).read_text()).get("variants", {}))
