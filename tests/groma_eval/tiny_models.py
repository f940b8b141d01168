"""Tiny random-weight checkpoints of the architectures that have an adapter, written as their owners publish them."""

from __future__ import annotations

from pathlib import Path

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLM = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def byte_tokenizer(first: tuple[str, ...] = ("<pad>", "<s>", "</s>", "<unk>"), specials: tuple[str, ...] = (), **more):
    """A tokenizer whose tokens are bytes, after the tokens ``first`` and before ``specials``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*first, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*first, *specials)])
    names = {"pad_token": first[0], "bos_token": first[1], "eos_token": first[2], "unk_token": first[3], **more}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def kosmos2(folder: Path) -> None:
    from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = byte_tokenizer(("<s>", "<pad>", "</s>", "<unk>"), bos_token="<s>", pad_token="<pad>")
    text = {
        "vocab_size": len(tokenizer) + 1024 + 11, "embed_dim": 32, "layers": 2, "ffn_dim": 32, "attention_heads": 4,
        "max_position_embeddings": 256,
    }  # fmt: skip
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 28,
    }
    config = Kosmos2Config(text_config=text, vision_config=vision, latent_query_num=4)
    _save(folder, Kosmos2ForConditionalGeneration, config, tokenizer)
    # The published one squeezes pictures to a square.
    CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False).save_pretrained(folder)


def florence2(folder: Path) -> None:
    from transformers import Florence2Config, Florence2ForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    places = tuple(f"<loc_{i}>" for i in range(1000))
    tokenizer = byte_tokenizer(
        ("<s>", "<pad>", "</s>", "<unk>"), ("<image>", *places), bos_token="<s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    text = {
        "model_type": "bart", "vocab_size": len(tokenizer), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "max_position_embeddings": 256,
    }  # fmt: skip
    vision = {
        "depths": [1, 1, 1, 1], "embed_dim": [8, 8, 16, 16], "num_heads": [2, 2, 2, 2], "num_groups": [2, 2, 2, 2],
        "window_size": 4, "projection_dim": 32, "drop_path_rate": 0.0,
    }  # fmt: skip
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=image_token)
    _save(folder, Florence2ForConditionalGeneration, config, tokenizer)
    size = {"height": 64, "width": 64}
    processor = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False, image_seq_length=5)
    processor.save_pretrained(folder)


def paligemma(folder: Path) -> None:
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    places = tuple(f"<loc{i:04d}>" for i in range(1024)) + tuple(f"<seg{i:03d}>" for i in range(128))
    tokenizer = byte_tokenizer(
        ("<pad>", "<eos>", "<bos>", "<unk>"), ("<image>", *places), bos_token="<bos>", eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4, "image_size": 28, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    text = {"model_type": "gemma", "vocab_size": len(tokenizer), "head_dim": 8, **LLM}
    config = PaliGemmaConfig(
        vision_config=vision, text_config=text, projection_dim=32, hidden_size=32, vocab_size=len(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    _save(folder, PaliGemmaForConditionalGeneration, config, tokenizer)
    SiglipImageProcessorPil(size={"height": 28, "width": 28}, image_seq_length=4).save_pretrained(folder)


def _qwen_tokenizer():
    specials = (
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    )  # fmt: skip
    tokenizer = byte_tokenizer(("<pad>", "<unused>", "<|endoftext|>", "<unk>"), specials, eos_token="<|im_end|>")
    tokenizer.chat_template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }  # fmt: skip
    return tokenizer, ids


def qwen25_vl(folder: Path) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer, ids = _qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer), **LLM,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 4, "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    _save(folder, Qwen2_5_VLForConditionalGeneration, config, tokenizer)
    Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=3136).save_pretrained(folder)


def qwen3_vl(folder: Path) -> None:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer, ids = _qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer), **LLM, "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 4, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    _save(folder, Qwen3VLForConditionalGeneration, config, tokenizer)
    Qwen2VLImageProcessorPil(patch_size=16, min_pixels=1024, max_pixels=4096).save_pretrained(folder)


def internvl(folder: Path) -> None:
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    specials = ("<|im_start|>", "<|im_end|>", "<ref>", "</ref>", "<box>", "</box>", *named.values())
    tokenizer = byte_tokenizer(
        ("<pad>", "<unused>", "<|endoftext|>", "<unk>"), specials, eos_token="<|im_end|>", extra_special_tokens=named
    )
    tokenizer.chat_template = CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": [28, 28], "patch_size": [7, 7],
    }  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **LLM},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
    )  # fmt: skip
    _save(folder, InternVLForConditionalGeneration, config, tokenizer)
    processor = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, min_patches=1, max_patches=4)
    processor.save_pretrained(folder)


def _bert_tokenizer():
    from transformers import BertTokenizerFast

    # Grounding DINO knows the ids of BERT's [CLS], [SEP], "." and "?".
    vocab = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789")
    for index, letter in enumerate(letters):
        vocab |= {letter: 200 + index, f"##{letter}": 300 + index}
    free = (index for index in range(1030) if index not in set(vocab.values()))
    vocab |= {f"[unused{index}]": index for index in list(free)}
    return BertTokenizerFast(vocab=vocab)


def _dino(folder: Path, config_class, model_class) -> None:
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    tokenizer = _bert_tokenizer()
    backbone = {
        "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
        "image_size": 64, "out_indices": [2, 3, 4],
    }  # fmt: skip
    text = {
        "model_type": "bert", "vocab_size": 1030, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 64,
    }  # fmt: skip
    config = config_class(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=10, max_text_len=64,
    )  # fmt: skip
    _save(folder, model_class, config, tokenizer)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)


def grounding_dino(folder: Path) -> None:
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    _dino(folder, GroundingDinoConfig, GroundingDinoForObjectDetection)


def mm_grounding_dino(folder: Path) -> None:
    from transformers import MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

    _dino(folder, MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)


def owlv2(folder: Path) -> None:
    from transformers import Owlv2Config, Owlv2ForObjectDetection
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    # As in CLIP, the token that ends a text has the highest id: its state stands for the text.
    tokenizer = byte_tokenizer(("!pad", "<unused>", "<unused2>", "<unk>"), ("<s>", "</s>"), bos_token="<s>",
                               eos_token="</s>")  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokenizer), "bos_token_id": len(tokenizer) - 2,
            "eos_token_id": len(tokenizer) - 1, "max_position_embeddings": 16}  # fmt: skip
    vision = {**small, "image_size": 32, "patch_size": 8}
    _save(folder, Owlv2ForObjectDetection, Owlv2Config(text_config=text, vision_config=vision, projection_dim=16),
          tokenizer)  # fmt: skip
    Owlv2ImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


BUILDERS = {
    "kosmos-2": kosmos2, "florence-2": florence2, "paligemma": paligemma, "qwen2.5-vl": qwen25_vl,
    "qwen3-vl": qwen3_vl, "internvl": internvl, "grounding-dino": grounding_dino,
    "mm-grounding-dino": mm_grounding_dino, "owlv2": owlv2,
}  # fmt: skip


def _save(folder: Path, model_class, config, tokenizer) -> None:
    import torch

    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():  # larger than initial weights are, so that answers differ from picture to picture
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight.mul_(100 if "encoder_attn" in name else 4)
        words = model.get_input_embeddings() if hasattr(model, "generate") else None
        if words is not None:  # or else a model that has just begun ends its answer
            words.weight[tokenizer.eos_token_id] = 0
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.update(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
