"""What a pool of blocks cannot hold: the refusals that name the mechanism a model would need.

A block is keys and values of consecutive tokens, of one size for all layers, read by whatever follows them. Models that
keep something else of their past, or read it otherwise, are told apart here by the fields of their configuration.
"""

from __future__ import annotations

from typing import Any

from quire_engine.checkpoint.refusal import ModelRefused

SERVED_LAYERS = ("full_attention", "sliding_attention")

_RECURRENT = "a recurrent state, which needs a pool of states beside the blocks"
_SPARSE = "attention to chosen tokens, which needs their index beside the blocks"
_COMPRESSED = "attention to compressed tokens, which needs blocks of several kinds"
MECHANISMS = {
    **dict.fromkeys(("linear_attention", "conv", "hybrid", "hybrid_sliding"), _RECURRENT),
    **dict.fromkeys(("indexed_attention", "minimax_m3_sparse"), _SPARSE),
    **dict.fromkeys(("compressed_sparse_attention", "heavily_compressed_attention"), _COMPRESSED),
    "chunked_attention": "chunked attention, which needs masks that begin anew with each chunk",
    "reference_sliding_attention": "windows over answers alone, which need the length of the prompt in each step",
    "moe": "layers without attention, which need tables by layer",
}
# Fields that only models with a recurrent state have.
_STATE_FIELDS = ("state_size", "mamba_d_state", "ssm_state_size", "conv_kernel", "rescale_every", "mamba_expand")


def check_mechanisms(config: Any) -> None:
    """Raise ModelRefused if the text part with this configuration keeps or reads more than blocks hold."""
    if getattr(config, "num_kv_shared_layers", 0):
        raise ModelRefused(
            "layers that share another layer's keys and values (num_kv_shared_layers), which needs tables by layer"
        )
    for kind in getattr(config, "layer_types", None) or ():
        if kind not in SERVED_LAYERS:
            needs = MECHANISMS.get(kind, f"only {' and '.join(SERVED_LAYERS)} are served")
            raise ModelRefused(f"layers of type {kind!r}: {needs}")
    states = next((name for name in _STATE_FIELDS if getattr(config, name, None)), None)
    if states and not getattr(config, "layer_types", None):
        raise ModelRefused(f"layers without attention ({states}): {_RECURRENT}")
