"""The layout of released Groma checkpoints: names of tensors and fields of ``config.json``, in both directions.

A released ``config.json`` is nested (``llm_cfg``, ``perceiver_cfg.vis_encoder_cfg``, ``perceiver_cfg.ddetr_cfg``) and
holds differences from the class defaults of transformers 4.32.0 only; those defaults are part of the format and stand
here. The proposer's heads are stored twice, with and without ``decoder.`` in their names, or once under either name.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from typing import Any

from groma_model.configuration import QUIRKS, GromaConfig

#: (Our stored name, released names), as regular expressions of whole names and their expansions.
_NAMES: list[tuple[str, tuple[str, ...]]] = [
    (r"vision_encoder\.model\.(.+)\.attention\.q_proj\.(.+)",
     (r"perceiver.vis_encoder.\1.attention.attention.query.\2",)),
    (r"vision_encoder\.model\.(.+)\.attention\.k_proj\.(.+)",
     (r"perceiver.vis_encoder.\1.attention.attention.key.\2",)),
    (r"vision_encoder\.model\.(.+)\.attention\.v_proj\.(.+)",
     (r"perceiver.vis_encoder.\1.attention.attention.value.\2",)),
    (r"vision_encoder\.model\.(.+)\.attention\.o_proj\.(.+)",
     (r"perceiver.vis_encoder.\1.attention.output.dense.\2",)),
    (r"vision_encoder\.model\.(.+)", (r"perceiver.vis_encoder.\1",)),
    (r"proposer\.input_proj\.(\d+)\.conv\.(.+)", (r"perceiver.input_proj.\1.0.\2",)),
    (r"proposer\.input_proj\.(\d+)\.norm\.(.+)", (r"perceiver.input_proj.\1.1.\2",)),
    (r"proposer\.box_heads\.(.+)",
     (r"perceiver.ddetr_transformer.decoder.bbox_embed.\1", r"perceiver.ddetr_transformer.bbox_embed.\1")),
    (r"proposer\.(class_embed_(?:enc|coco|sa1b)\..+)",
     (r"perceiver.ddetr_transformer.decoder.\1", r"perceiver.ddetr_transformer.\1")),
    (r"proposer\.(encoder|decoder)\.(.+)", (r"perceiver.ddetr_transformer.\1.layers.\2",)),
    (r"proposer\.query_content\.(.+)", (r"perceiver.ddetr_transformer.query_position_embeddings.\1",)),
    (r"proposer\.(.+)", (r"perceiver.ddetr_transformer.\1",)),
    (r"region_encoder\.input_convs\.(.+)", (r"region_encoder.mlvl_fuse.input_conv.\1",)),
    (r"region_encoder\.fuse_convs\.(\d+)\.norm\.(.+)", (r"region_encoder.mlvl_fuse.fuse_convs.\1.gn.\2",)),
    (r"region_encoder\.(fuse_convs\..+)", (r"region_encoder.mlvl_fuse.\1",)),
    (r"region_encoder\.roi_convs\.(.+)", (r"region_encoder.roi_align.pconvs.\1",)),
    (r"region_encoder\.box_embed\.(.+)", (r"region_encoder.roi_align.pos_embedd.\1",)),
    (r"region_encoder\.pool\.(.+)", (r"region_encoder.roi_align.flatten_linear.\1",)),
    (r"region_encoder\.project\.(.+)", (r"region_encoder.roi_align.updims.\1",)),
    (r"projector\.(.+)", (r"img_txt_bridge.\1",)),
    (r"new_token_embeddings\.(.+)", (r"new_input_embs.\1",)),
    (r"new_token_head\.(.+)", (r"extra_lm_head.\1",)),
    (r"(llm\..+)", (r"\1",)),
]  # fmt: skip


def released_names(name: str) -> tuple[str, ...]:
    """The released names of one of our stored tensors; two for the proposer's heads.

    Raises:
        ValueError: for a tensor that a released checkpoint cannot hold.
    """
    for pattern, expansions in _NAMES:
        if match := re.fullmatch(pattern, name):
            return tuple(match.expand(e) for e in expansions)
    raise ValueError(f"a released checkpoint has no place for the tensor {name!r}")


def native_names(names: Mapping[str, Any]) -> dict[str, str]:
    """Released name -> our stored name, for all of ours."""
    return {released: name for name in names for released in released_names(name)}


_LLM = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "hidden_act": "silu", "max_position_embeddings": 2048,
    "initializer_range": 0.02, "rms_norm_eps": 1e-6, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False, "rope_scaling": None,
}  # fmt: skip
_VISION = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02,
    "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 16, "num_channels": 3, "qkv_bias": True,
    "layerscale_value": 1.0, "drop_path_rate": 0.0, "use_swiglu_ffn": False,
}  # fmt: skip
#: Fields of the detector that this model has, with their defaults.
_DETECTOR = {
    "d_model": 256, "encoder_layers": 6, "encoder_ffn_dim": 1024, "encoder_attention_heads": 8, "decoder_layers": 6,
    "decoder_ffn_dim": 1024, "decoder_attention_heads": 8, "dropout": 0.1, "num_queries": 300,
    "two_stage_num_proposals": 300, "encoder_n_points": 4, "decoder_n_points": 4, "num_feature_levels": 4,
    "two_stage": False, "with_box_refine": False, "activation_function": "relu",
}  # fmt: skip
#: Fields that say nothing about the model that inference needs: losses, training, the library's generic ones.
_IGNORED = frozenset({
    "_name_or_path", "activation_dropout", "add_cross_attention", "apply_layernorm", "architectures",
    "attention_dropout", "auxiliary_loss", "backbone", "backbone_config", "bad_words_ids", "bbox_cost",
    "bbox_loss_coefficient", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "class_cost",
    "cls_loss_coefficient", "cross_attention_hidden_size", "ddetr_cfg", "decoder_start_token_id",
    "dice_loss_coefficient", "dilation", "disable_custom_kernels", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_layerdrop", "encoder_no_repeat_ngram_size", "eos_coefficient", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "focal_alpha", "forced_bos_token_id", "forced_eos_token_id",
    "giou_cost", "giou_loss_coefficient", "id2label", "init_std", "init_xavier_std", "is_decoder",
    "is_encoder_decoder", "label2id", "length_penalty", "mask_loss_coefficient", "max_length",
    "max_position_embeddings", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_channels", "num_return_sequences", "out_features", "out_indices", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token_id", "position_embedding_type", "prefix", "pretraining_tp", "problem_type",
    "pruned_heads", "remove_invalid_values", "repetition_penalty", "reshape_hidden_states", "return_dict",
    "return_dict_in_generate", "sep_token_id", "stage_names", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache", "use_pretrained_backbone",
    "use_timm_backbone", "vis_encoder_cfg", "vis_output_layer", "zs_weight_path",
})  # fmt: skip
_ROOT = frozenset({
    "_name_or_path", "architectures", "box_score_thres", "llm_cfg", "max_region_num", "model_type", "nms_thres",
    "num_new_token", "perceiver_cfg", "torch_dtype", "transformers_version", "vocab_size",
})  # fmt: skip


def is_released(values: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is a released Groma's."""
    return values.get("model_type") == "groma" and "llm_cfg" in values and "perceiver_cfg" in values


def is_released_detector(values: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a released detector: image encoder and proposer, as stage 1 leaves them."""
    return values.get("model_type") == "ddetr" and "vis_encoder_cfg" in values and "ddetr_cfg" in values


def detector_config(values: Mapping[str, Any]) -> GromaConfig:
    """Our configuration of a released detector's; what it says of regions and language model is without meaning.

    Raises:
        ValueError: as :func:`native_config`.
    """
    unknown = sorted(set(values) - _IGNORED)
    if unknown:
        warnings.warn(f"config.json: fields that are not known are ignored: {', '.join(unknown)}", stacklevel=2)
    return GromaConfig(**_perceiver(values), compatibility="released")


def native_config(values: Mapping[str, Any]) -> GromaConfig:
    """Our configuration of a released one, with ``compatibility`` ``"released"``.

    Warns of fields at the top that are not known, and of ``nms_thres`` 0. Raises ValueError (one line) for a field of a
    part that is not known, or a value that these modules do not implement.
    """
    unknown = sorted(set(values) - _ROOT)
    if unknown:
        warnings.warn(f"config.json: fields that are not known are ignored: {', '.join(unknown)}", stacklevel=2)
    llm = _part(values["llm_cfg"], _LLM, "llm_cfg")
    if llm["num_key_value_heads"] is None:
        llm["num_key_value_heads"] = llm["num_attention_heads"]
    if llm["tie_word_embeddings"]:
        raise ValueError("config.json: llm_cfg.tie_word_embeddings is true, only false is implemented")
    nms = values.get("nms_thres", 0.0)
    if nms == 0:
        warnings.warn("config.json: nms_thres is 0, so of overlapping regions only one is kept; the released models "
                      "use 0.6", stacklevel=2)  # fmt: skip
    regions = values.get("max_region_num", 100)
    config = GromaConfig(
        **_perceiver(values["perceiver_cfg"]), llm_config={"model_type": "llama", **llm},
        score_threshold=values.get("box_score_thres", 0.0), nms_threshold=nms, max_regions=regions,
        compatibility="released",
    )  # fmt: skip
    count = values.get("num_new_token")
    if count != len(config.new_tokens):
        raise ValueError(
            f"config.json: num_new_token is {count}, but max_region_num {regions} makes {len(config.new_tokens)} new "
            "tokens: only checkpoints with the released token set are read"
        )
    return config


def _perceiver(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our configuration that image encoder and proposer have."""
    vision = _part(values.get("vis_encoder_cfg", {}), _VISION, "vis_encoder_cfg")
    detector = _part(values.get("ddetr_cfg", {}), _DETECTOR, "ddetr_cfg")
    required = {"num_feature_levels": 1, "two_stage": True, "with_box_refine": True, "activation_function": "relu",
                "decoder_ffn_dim": detector["encoder_ffn_dim"], "decoder_n_points": detector["encoder_n_points"],
                "decoder_attention_heads": detector["encoder_attention_heads"],
                "two_stage_num_proposals": detector["num_queries"]}  # fmt: skip
    for name, wanted in required.items():
        if detector[name] != wanted:
            raise ValueError(f"config.json: ddetr_cfg.{name} is {detector[name]!r}, only {wanted!r} is implemented")
    return dict(
        vision_config={"model_type": "dinov2", **vision}, vision_output_layer=values.get("vis_output_layer", -1),
        proposer_dim=detector["d_model"], proposer_heads=detector["encoder_attention_heads"],
        proposer_points=detector["encoder_n_points"], proposer_ffn_dim=detector["encoder_ffn_dim"],
        proposer_encoder_layers=detector["encoder_layers"], proposer_decoder_layers=detector["decoder_layers"],
        num_queries=detector["num_queries"], proposer_dropout=detector["dropout"],
    )  # fmt: skip


def released_config(config: GromaConfig) -> dict[str, Any]:
    """The released ``config.json`` of a configuration.

    Raises:
        ValueError: naming the setting that the released code does not have.
    """
    fixed = native_config(_nested(config))
    for name in list(inspect.signature(GromaConfig.__init__).parameters)[1:-1]:
        ours, theirs = getattr(config, name, None), getattr(fixed, name, None)
        if name.endswith("_config"):
            ours, theirs = _plain(ours), _plain(theirs)
        if ours != theirs and name not in QUIRKS:
            raise ValueError(f"a released checkpoint cannot hold {name} = {ours!r}; the released code has {theirs!r}")
    for name, (_, released) in QUIRKS.items():
        if name != "region_order" and getattr(config, name) != released:
            raise ValueError(
                f"a released checkpoint cannot hold {name} = {getattr(config, name)!r}: the released code would run it "
                f"with {released!r}"
            )
    return _nested(config)


def _nested(config: GromaConfig) -> dict[str, Any]:
    vision, llm = config.vision_config, config.llm_config
    return {
        "architectures": ["GromaModel"], "model_type": "groma", "transformers_version": "4.32.0",
        "box_score_thres": config.score_threshold, "nms_thres": config.nms_threshold,
        "max_region_num": config.max_regions, "num_new_token": len(config.new_tokens),
        "vocab_size": llm.vocab_size + len(config.new_tokens),
        "llm_cfg": {"model_type": "llama", **{k: getattr(llm, k, v) for k, v in _LLM.items() if k != "rope_scaling"}},
        "perceiver_cfg": {
            "model_type": "ddetr", "vis_output_layer": config.vision_output_layer, "zs_weight_path": None,
            "vis_encoder_cfg": {"model_type": "dinov2", **_different(vision, _VISION)},
            "ddetr_cfg": {
                "model_type": "deformable_detr", "num_feature_levels": 1, "two_stage": True, "with_box_refine": True,
                "d_model": config.proposer_dim, "encoder_layers": config.proposer_encoder_layers,
                "decoder_layers": config.proposer_decoder_layers, "encoder_ffn_dim": config.proposer_ffn_dim,
                "decoder_ffn_dim": config.proposer_ffn_dim, "encoder_attention_heads": config.proposer_heads,
                "decoder_attention_heads": config.proposer_heads, "encoder_n_points": config.proposer_points,
                "decoder_n_points": config.proposer_points, "num_queries": config.num_queries,
                "two_stage_num_proposals": config.num_queries, "dropout": config.proposer_dropout,
            },
        },
    }  # fmt: skip


def _part(given: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    unknown = sorted(set(given) - set(defaults) - _IGNORED - {"rope_theta"})
    if unknown:
        raise ValueError(f"config.json: {where} has fields that are not known: {', '.join(unknown)}")
    known = {name: given.get(name, value) for name, value in defaults.items()}
    return known | ({"rope_theta": given["rope_theta"]} if "rope_theta" in given else {})


def _different(config: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {k: getattr(config, k) for k, v in defaults.items() if getattr(config, k, v) != v}


def _plain(config: Any) -> dict[str, Any]:
    fields = _LLM if config.model_type == "llama" else _VISION
    return {name: getattr(config, name, None) for name in fields if name != "rope_scaling"}
