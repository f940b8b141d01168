"""The adapters of other models: what each declares of itself, known without loading any.

``box_format`` is a name of :data:`groma_eval.box_formats.FORMATS`, or ``cxcywh`` of a detector's box head; ``frame`` is
what its numbers mean. Adapters take both from here, and so does ``groma-eval list models``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_NO_TEMPLATES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Declared:
    """An adapter's declaration.

    ``target``: ``module:class``. ``checkpoint``: the hub id that the bare name stands for. ``model_types``: of the
    checkpoints' ``config.json``. ``templates``: native prompts by question kind (``{text}``, ``{box}``); kinds without
    one take the card's reference prompt.
    """

    name: str
    about: str
    target: str
    checkpoint: str
    model_types: tuple[str, ...]
    capabilities: frozenset[str]
    box_format: str
    frame: str
    templates: Mapping[str, str] = field(default_factory=lambda: _NO_TEMPLATES)
    exposes_confidences: bool = False
    notes: tuple[str, ...] = ()


_GROUND = frozenset({"ground_one", "ground_all"})
_TALK = frozenset({"describe", "describe_scene", "converse"})

ADAPTERS: dict[str, Declared] = {
    declared.name: declared
    for declared in (
        Declared(
            "kosmos-2", "Kosmos-2 (transformers)", "groma_eval.models.kosmos2:Kosmos2",
            "microsoft/kosmos-2-patch14-224", ("kosmos-2",), _GROUND | _TALK, "kosmos-2", "patches-32",
            # As on the model's card.
            {
                "ground_one": "<grounding><phrase> {text}</phrase>",
                "ground_all": "<grounding><phrase> {text}</phrase>",
                "describe": "<grounding><phrase> It</phrase>{box} is",
                "describe_scene": "<grounding> Describe this image in detail:",
                "converse": "<grounding> Question: {text} Answer:",
            },
        ),
        Declared(
            "florence-2", "Florence-2 (transformers)", "groma_eval.models.florence2:Florence2",
            "florence-community/Florence-2-large-ft", ("florence2",), _GROUND | {"describe"}, "florence-2", "bins-1000",
            {
                "ground_one": "<CAPTION_TO_PHRASE_GROUNDING>{text}",
                "ground_all": "<OPEN_VOCABULARY_DETECTION>{text}",
                "describe": "<REGION_TO_DESCRIPTION>{box}",
            },
            notes=("decoded greedily, where its card has three beams",),
        ),
        Declared(
            "paligemma", "PaliGemma and PaliGemma 2, mix checkpoints (transformers)",
            "groma_eval.models.paligemma:PaliGemma", "google/paligemma2-3b-mix-448", ("paligemma",),
            _GROUND | {"converse"}, "paligemma", "bins-1024",
            {"ground_one": "detect {text}", "ground_all": "detect {text}", "converse": "answer en {text}"},
        ),
        Declared(
            "qwen2.5-vl", "Qwen2.5-VL (transformers)", "groma_eval.models.qwen_vl:QwenVL",
            "Qwen/Qwen2.5-VL-7B-Instruct", ("qwen2_5_vl",), _GROUND | _TALK, "qwen2.5-vl", "input-pixels",
            {
                "ground_one": "Locate {text}, output its bbox coordinates using JSON format.",
                "ground_all": "Locate every {text}, output the bbox coordinates using JSON format.",
            },
        ),
        Declared(
            "qwen3-vl", "Qwen3-VL (transformers)", "groma_eval.models.qwen_vl:QwenVL",
            "Qwen/Qwen3-VL-8B-Instruct", ("qwen3_vl",), _GROUND | _TALK, "qwen3-vl", "0-1000",
            {
                "ground_one": "Locate {text}, report its bbox coordinates in JSON format.",
                "ground_all": 'Locate every instance that belongs to the following categories: "{text}". '
                "Report bbox coordinates in JSON format.",
            },
        ),
        Declared(
            "internvl", "InternVL 2.5 to 3.5, the -hf checkpoints (transformers)",
            "groma_eval.models.internvl:InternVL", "OpenGVLab/InternVL3-8B-hf", ("internvl",), _GROUND | _TALK,
            "internvl", "0-1000",
            {
                "ground_one": "Please provide the bounding box coordinate of the region this sentence describes: "
                "<ref>{text}</ref>",
                "ground_all": "Please detect and label all {text} in the following image and mark their positions.",
                "describe": "Please provide a short description for this region: {box}",
            },
        ),
        Declared(
            "grounding-dino", "Grounding DINO (transformers)", "groma_eval.models.grounding_dino:GroundingDino",
            "IDEA-Research/grounding-dino-base", ("grounding-dino",), _GROUND, "cxcywh", "0-1",
            {"ground_one": "{text}.", "ground_all": "{text}."}, exposes_confidences=True,
        ),
        Declared(
            "mm-grounding-dino", "MM-Grounding-DINO (transformers)", "groma_eval.models.grounding_dino:GroundingDino",
            "openmmlab-community/mm_grounding_dino_base_all", ("mm-grounding-dino",), _GROUND, "cxcywh", "0-1",
            {"ground_one": "{text}.", "ground_all": "{text}."}, exposes_confidences=True,
        ),
        Declared(
            "owlv2", "OWLv2 (transformers)", "groma_eval.models.owlv2:Owlv2", "google/owlv2-base-patch16-ensemble",
            ("owlv2",), _GROUND, "cxcywh", "padded-square",
            {"ground_one": "{text}", "ground_all": "a photo of a {text}"}, exposes_confidences=True,
        ),
    )
}  # fmt: skip
