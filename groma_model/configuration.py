"""The configuration of a Groma model and its presets.

Presets differ in sizes only; ``tiny`` and ``nano`` run the modules of ``7b``. Settings that depart from the paper
(`pointer_head`) or reproduce quirks of the released code (`box_geometry`, `box_refinement`, ...) are named here and
documented where they act.
"""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

#: Tokens added to the language model's vocabulary, in the order of their ids (after the base vocabulary).
NEW_TOKENS = (
    "[PAD]", "<sep>", "<img>", "</img>", "<roi>", "</roi>", "<p>", "</p>", "<image>", "<region>",
    "<refer_box>", "<ground_box>", "<refer_feat>", "[grounding]",
)  # fmt: skip


#: Settings that reproduce what the released code does and its weights were trained with: (corrected, released).
#: ``compatibility`` chooses a column; each may also be set by itself.
QUIRKS: dict[str, tuple[str, str]] = {
    "position_interpolation": ("size", "scale_factor"),
    "box_refinement": ("accumulate", "released"),
    "box_geometry": ("xyxy", "released"),
    "region_selection": ("given_kept", "released"),
    "region_order": ("score", "shuffled"),
}


def region_token(index: int) -> str:
    """The proxy token that announces and names region ``index``."""
    return f"<r{index}>"


class GromaConfig(PretrainedConfig):
    """Configuration of :class:`groma_model.modeling.GromaForConditionalGeneration`.

    Args:
        vision_config: a Dinov2Config or CLIPVisionConfig (or its dict). Its ``image_size`` is the *pretraining* size,
            i.e. of the position grid.
        llm_config: a LlamaConfig (or its dict); its tables hold the base vocabulary only.
        image_size: side in pixels of the square input picture (paper: 448).
        vision_output_layer: index of the hidden state that becomes image tokens (before the final LayerNorm).
        token_merge: concatenate 2x2 neighbouring image tokens before the projector (paper Sec. 3.1).
        compatibility: ``"none"`` (new models) or ``"released"``: the default of every setting in :data:`QUIRKS`.
        position_interpolation: ``"size"`` (to the exact grid) or ``"scale_factor"`` (transformers 4.32's arithmetic).
        proposer_layers: the number of last hidden states read by the proposer (paper and code: 4).
        proposer_features: ``"mean"`` of those states as one level (released code) or ``"pyramid"`` (paper).
        proposer_dim, proposer_heads, proposer_points, proposer_ffn_dim, proposer_encoder_layers,
        proposer_decoder_layers, num_queries: Deformable-DETR sizes.
        proposer_box_head_dim: width of the box MLPs.
        proposer_dropout: dropout in the proposer while it is trained (never while it is frozen).
        anchor_size: side of the square anchors of the encoder's proposals, as a fraction of the image.
        box_refinement: ``"accumulate"``: each decoder layer refines the reference points of the one before;
            ``"released"``: all layers sample around the initial reference points.
        objectness_exponents: weights of the (COCO-style, SA-1B-style) objectness in the fused score.
        score_threshold, nms_threshold, max_regions: proposal selection (Sec. 3.2): score above the first, NMS at the
            second, at most so many regions.
        region_selection: ``"given_kept"``: given boxes always take part; ``"released"``: threshold and cut apply to
            them as to proposals, and nothing is clipped to the image.
        region_order: numbering of the regions when answering, ``"score"`` (best first) or ``"shuffled"`` (the released
            code draws a new permutation every call; here it depends on the number of regions alone, so that a run can
            be repeated). Training always shuffles.
        region_layers: the number of last hidden states read by the region encoder.
        region_scales: size of each of these maps relative to the patch grid, finest first.
        region_fuse_convs: number of multi-scale fusion steps.
        region_norm_groups: groups of their GroupNorm.
        roi_size, roi_sampling_ratio: RoIAlign output side and samples a bin side.
        region_dim: width of the pooled region feature; region_box_dim: width of the box embedding's hidden layer.
        box_geometry: ``"xyxy"`` (a box's features come from inside it) or ``"released"`` (cxcywh read as xyxy, twice
            the scale).
        prompt_template: conversation template, see :mod:`groma_model.processing`.
        pointer_head: adds to the logit of ``<ri>`` a match between the hidden state and region i, and to the embedding
            of a ``<ri>`` that appears in text the region's own embedding. Not part of the published Groma.
        pointer_dim: width of that match.
    """

    model_type = "groma"

    def __init__(
        self,
        vision_config: dict[str, Any] | PretrainedConfig | None = None,
        llm_config: dict[str, Any] | PretrainedConfig | None = None,
        image_size: int = 448,
        vision_output_layer: int = -1,
        token_merge: bool = True,
        compatibility: str = "none",
        position_interpolation: str | None = None,
        proposer_layers: int = 4,
        proposer_features: str = "mean",
        proposer_dim: int = 256,
        proposer_heads: int = 8,
        proposer_points: int = 4,
        proposer_ffn_dim: int = 1024,
        proposer_encoder_layers: int = 6,
        proposer_decoder_layers: int = 6,
        num_queries: int = 300,
        proposer_box_head_dim: int = 256,
        proposer_dropout: float = 0.1,
        anchor_size: float = 0.05,
        box_refinement: str | None = None,
        objectness_exponents: tuple[float, float] = (0.4, 0.6),
        score_threshold: float = 0.15,
        nms_threshold: float = 0.6,
        max_regions: int = 100,
        region_layers: int = 3,
        region_scales: tuple[float, ...] = (4, 2, 1),
        region_fuse_convs: int = 5,
        region_norm_groups: int = 64,
        roi_size: int = 14,
        roi_sampling_ratio: int = 2,
        region_dim: int = 1024,
        region_box_dim: int = 256,
        box_geometry: str | None = None,
        region_selection: str | None = None,
        region_order: str | None = None,
        prompt_template: str = "llava",
        pointer_head: bool = False,
        pointer_dim: int = 128,
        image_mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        image_std: tuple[float, ...] = (0.229, 0.224, 0.225),
        **kwargs: Any,
    ):
        self.vision_config = _sub_config(vision_config, "dinov2", hidden_size=1024, num_hidden_layers=24,
                                         num_attention_heads=16, image_size=518, patch_size=14)  # fmt: skip
        self.llm_config = _sub_config(llm_config, "llama", max_position_embeddings=4096, rms_norm_eps=1e-5)
        self.image_size = image_size
        self.vision_output_layer = vision_output_layer
        self.token_merge = token_merge
        self.proposer_layers = proposer_layers
        self.proposer_features = _choice("proposer_features", proposer_features, "mean", "pyramid")
        self.proposer_dim = proposer_dim
        self.proposer_heads = proposer_heads
        self.proposer_points = proposer_points
        self.proposer_ffn_dim = proposer_ffn_dim
        self.proposer_encoder_layers = proposer_encoder_layers
        self.proposer_decoder_layers = proposer_decoder_layers
        self.num_queries = num_queries
        self.proposer_box_head_dim = proposer_box_head_dim
        self.proposer_dropout = proposer_dropout
        self.anchor_size = anchor_size
        self.objectness_exponents = tuple(objectness_exponents)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_regions = max_regions
        self.region_layers = region_layers
        self.region_scales = tuple(region_scales)
        self.region_fuse_convs = region_fuse_convs
        self.region_norm_groups = region_norm_groups
        self.roi_size = roi_size
        self.roi_sampling_ratio = roi_sampling_ratio
        self.region_dim = region_dim
        self.region_box_dim = region_box_dim
        self.compatibility = _choice("compatibility", compatibility, "none", "released")
        given = {
            "position_interpolation": position_interpolation, "box_refinement": box_refinement,
            "box_geometry": box_geometry, "region_selection": region_selection, "region_order": region_order,
        }  # fmt: skip
        for name, choices in QUIRKS.items():
            value = given[name] if given[name] is not None else choices[compatibility == "released"]
            setattr(self, name, _choice(name, value, *choices))
        self.prompt_template = prompt_template
        self.pointer_head = pointer_head
        self.pointer_dim = pointer_dim
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        super().__init__(**kwargs)

    @property
    def new_tokens(self) -> list[str]:
        """Names of the added tokens, in the order of their ids from ``llm_config.vocab_size`` on."""
        return [*NEW_TOKENS, *(region_token(i) for i in range(self.max_regions))]

    @property
    def grid_size(self) -> int:
        """Patches along a side of the input picture."""
        return self.image_size // self.vision_config.patch_size

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict with the two sub-configurations as dicts."""
        output = super().to_dict()
        output["vision_config"] = self.vision_config.to_dict()
        output["llm_config"] = self.llm_config.to_dict()
        return output


def _choice(name: str, value: str, *allowed: str) -> str:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")
    return value


def _sub_config(
    given: dict[str, Any] | PretrainedConfig | None, default_type: str, **defaults: Any
) -> PretrainedConfig:
    if isinstance(given, PretrainedConfig):
        return given
    values = dict(given) if given is not None else defaults
    return CONFIG_MAPPING[values.pop("model_type", default_type)](**values)


_PRESETS: dict[str, dict[str, Any]] = {
    "7b": {},
    "tiny": dict(
        vision_config=dict(model_type="dinov2", hidden_size=160, num_hidden_layers=5, num_attention_heads=5,
                           image_size=192, patch_size=16, layerscale_value=1.0),
        llm_config=dict(model_type="llama", vocab_size=512, hidden_size=192, intermediate_size=512,
                        num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=6, initializer_range=0.04,
                        max_position_embeddings=2048, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2),
        image_size=192, proposer_dim=128, proposer_heads=8, proposer_ffn_dim=256, proposer_encoder_layers=1,
        proposer_decoder_layers=2, num_queries=60, proposer_box_head_dim=128, proposer_dropout=0.0, anchor_size=0.2,
        score_threshold=0.15, max_regions=30, region_scales=(2, 1, 1), region_fuse_convs=1, region_norm_groups=16,
        roi_size=4, region_dim=256, region_box_dim=128, prompt_template="brief",
        pointer_head=True, pointer_dim=128,
    ),
    "nano": dict(
        vision_config=dict(model_type="dinov2", hidden_size=96, num_hidden_layers=4, num_attention_heads=3,
                           image_size=128, patch_size=16, layerscale_value=1.0),
        llm_config=dict(model_type="llama", vocab_size=512, hidden_size=128, intermediate_size=352,
                        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, initializer_range=0.04,
                        max_position_embeddings=2048, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2),
        image_size=128, proposer_dim=64, proposer_heads=4, proposer_ffn_dim=128, proposer_encoder_layers=1,
        proposer_decoder_layers=2, num_queries=30, proposer_box_head_dim=64, proposer_dropout=0.0, anchor_size=0.2,
        score_threshold=0.15, max_regions=30, region_scales=(2, 1, 1), region_fuse_convs=1, region_norm_groups=8,
        roi_size=4, region_dim=128, region_box_dim=64, prompt_template="brief",
        pointer_head=True, pointer_dim=64,
    ),
}  # fmt: skip


def preset(name: str, **overrides: Any) -> GromaConfig:
    """A fresh configuration: ``"7b"`` (the released sizes), ``"tiny"`` (the bundled model) or ``"nano"`` (ablations).

    Raises:
        ValueError: for another name.
    """
    if name not in _PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(_PRESETS)}")
    return GromaConfig(**(_PRESETS[name] | overrides))
