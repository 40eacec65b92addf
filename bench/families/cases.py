"""What is tried: every architecture of transformers that generates text, and variants that ask for something else.

Owns what one architecture needs beyond small sizes. An architecture without an entry is tried with its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from .trial import Candidate

FULL = ["full_attention"] * 4
MIXED = ["sliding_attention", "full_attention"] * 2
SHORT, LONG = [1.0] * 8, [4.0] * 8

# Rotary positions in three parts, which must add up to half a head.
THREE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
IN_THREE = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe", "glm46v", "glmga", "glm_ocr",
    "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "paddleocr_vl", "cosmos3_edge", "ernie4_5_vl_moe",
)  # fmt: skip
LATENT = {"num_key_value_heads": 4}  # latents are expanded to a key for every query head
EXPERTS = {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 96}

CHANGES: dict[str, Mapping[str, Any]] = {
    **dict.fromkeys(("deepseek_v3", "glm4_moe_lite", "axk1", "youtu", "longcat_flash"), LATENT),
    **{kind: {"head_dim": 16} for kind in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral", "nemotron")},
    **{kind: {"text_config": THREE} for kind in IN_THREE},
    "deepseek_v2": {**LATENT, **EXPERTS},
    "minicpm3": {**LATENT, "scale_emb": 1.0, "scale_depth": None, "dim_model_base": None, "v_head_dim": 16},
    "dots1": EXPERTS,
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4}},
    "glm5_next": {"text_config": LATENT},
    "kimi_k25": {"text_config": LATENT},
    "hunyuan_vl": {"text_config": {"head_dim": 16}},
    "inkling2": {"vision_config": {"text_hidden_size": 64}},
    "chameleon": {"vocabulary_map": {"<image>": 5}},
    "emu3": {"vocabulary_map": {"<image>": 5}},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": MIXED},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "zaya": {"num_experts_per_tok": 1},
    "biogpt": {"scale_embedding": False},
    "gpt_bigcode": {"num_key_value_heads": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
}

VARIANTS: dict[str, Candidate] = {
    case.name: case
    for case in (
        Candidate("mistral-window", "mistral", {"sliding_window": 64}),
        Candidate("mistral-full", "mistral", {"sliding_window": None}),
        Candidate("phi3-window", "phi3", {"sliding_window": 64}),
        Candidate(
            "phi3-longrope",
            "phi3",
            {
                "original_max_position_embeddings": 256,
                "rope_parameters": {
                    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG,
                    "original_max_position_embeddings": 256,
                },
            },
            max_model_len=256,
        ),
        Candidate(
            "llama-dynamic",
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
        ),
        Candidate(
            "hunyuan_v1_dense-alpha",
            "hunyuan_v1_dense",
            {
                "head_dim": 16,
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 1e3},
            },
        ),
        Candidate("granitemoehybrid-attention", "granitemoehybrid", {"layer_types": FULL}),
        Candidate("falcon-new", "falcon", {"new_decoder_architecture": True}),
        Candidate("cohere-qk-norm", "cohere", {"use_qk_norm": True}),
        Candidate("gemma4_text-shared-kv", "gemma4_text", {"num_kv_shared_layers": 2, "layer_types": MIXED}),
        Candidate("llama4_text-full", "llama4_text", {"layer_types": FULL}),
        Candidate("mimo_v2_flash-full", "mimo_v2_flash", {"layer_types": FULL, "head_dim": 24, "v_head_dim": 16}),
    )
}  # fmt: skip


def all_cases() -> dict[str, Candidate]:
    """Every case by its name, architectures first."""
    kinds = [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]
    return {kind: Candidate(kind, kind, CHANGES.get(kind, {})) for kind in dict.fromkeys(kinds)} | VARIANTS
