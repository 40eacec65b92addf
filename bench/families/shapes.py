"""The smallest configurations that still are what their architecture is.

Owns the shrinking: every architecture's own default configuration, with each size replaced by a small one. Fields are
known by their names, which architectures share; what one architecture needs beyond that stands in ``cases``. Kept are
the kinds of layers, experts, windows, positions: whatever decides how attention is asked for.

A window is shorter than the prompts that are compared, and positions are as many as the longest of them needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

VOCABULARY, POSITIONS, WINDOW, LAYERS = 256, 512, 64, 4

# Field of a configuration -> small value; a field that the default does not have, or has as None, stays as it is.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "padded_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "emb_dim", "d_embed"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "encoder_ffn_dim"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size"), 96),
    **dict.fromkeys(("intermediate_size_mlp", "shared_intermediate_size", "expert_ffn_hidden_size"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "kv_channels", "d_kv", "swa_head_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), POSITIONS),
    **dict.fromkeys(("max_sequence_length", "max_target_positions", "max_source_positions"), POSITIONS),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "local_attention", "window_size"), WINDOW),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    "query_pre_attn_scalar": 16, "hidden_size_per_layer_input": 8, "rotary_dim": 8,
    "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
    "attention_chunk_size": WINDOW, "max_window_layers": 2, "image_size": 28, "patch_size": 14, "depth": 2,
    "out_hidden_size": 64, "projection_dim": 64, "vision_feature_layer": -1, "layer_norm_eps": 1e-5,
    "embed_dim": 64, "dt_rank": 8, "state_size": 16, "mamba_d_state": 16, "mamba_d_ssm": 64, "mamba_n_heads": 4,
    "mamba_d_head": 16, "mamba_num_heads": 4, "mamba_head_dim": 16, "expand": 1, "mamba_expand": 1,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def small_config(kind: str, changes: Mapping[str, Any] | None = None) -> Any:
    """The small configuration of ``kind``, with ``changes``; those of a part are mappings under the part's name."""
    return CONFIG_MAPPING[kind](**_fields(CONFIG_MAPPING[kind], changes or {}))


def _fields(kind: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    default, found = kind(), dict[str, Any]()
    had = default.to_dict()
    renamed = {theirs: ours for ours, theirs in (kind.attribute_map or {}).items()}
    for name in had:
        small = SMALL.get(name, SMALL.get(renamed.get(name, name)))
        if small is not None and isinstance(had[name], int | float) and not isinstance(had[name], bool):
            found[name] = type(had[name])(small)
    found |= {name: token for name, token in ENDS.items() if name in had}
    for name in kind.sub_configs:
        part = getattr(default, name, None)
        if part is not None:
            kinder = {"model_type": part.model_type} if part.model_type else {}
            inner = changes.get(name, {})
            found[name] = _fields(type(part), inner if isinstance(inner, Mapping) else {}) | kinder
    return found | {name: value for name, value in changes.items() if name not in kind.sub_configs or value is None}
