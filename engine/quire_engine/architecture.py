"""What a model's configuration must say before its weights are worth loading.

Owns the reading of transformers configurations: sizes of keys and values, RoPE, sliding windows, and the refusals
that need no weights. There is no table of model names: a configuration is judged by the fields it has, and the
self-test at load judges the rest by running it.

Refused here, with the reason: encoders, encoder-decoders and models of several modalities; layers that share
another layer's keys; attention that is neither full nor a sliding window; RoPE whose frequencies depend on the
lengths in the batch, because then a block's content would depend on its neighbours and could not be shared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")
LAYER_TYPES = ("full_attention", "sliding_attention")


class ModelRefused(ValueError):
    """This model cannot be served; the message says what it has that Quire cannot share or compute."""


def read_config(directory: Path) -> Any:
    """The checked configuration of the model in ``directory``. Raises ModelRefused or OSError."""
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:  # of any kind: transformers checks few of the values that it reads
        raise ModelRefused(f"transformers cannot read {directory}/config.json: {error}") from error
    _check(config)
    return config


def _check(config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused("an encoder-decoder: only decoders are served")
    if config.get_text_config() is not config:
        raise ModelRefused("a model of several modalities: only text decoders are served")
    if getattr(config, "num_kv_shared_layers", 0):
        raise ModelRefused("layers that share another layer's keys and values (num_kv_shared_layers)")
    for kind in getattr(config, "layer_types", None) or ():
        if kind not in LAYER_TYPES:
            raise ModelRefused(f"layers of type {kind!r}: only {' and '.join(LAYER_TYPES)} are served")
    for name, rope in _ropes(config).items():
        kind = str(rope.get("rope_type", "default"))
        if kind in BATCH_DEPENDENT_ROPE:
            raise ModelRefused(f"RoPE of type {kind!r}{name}: its frequencies depend on the lengths in the batch")


def _ropes(config: Any) -> dict[str, dict[str, Any]]:
    """RoPE parameters, one set for all layers (name "") or one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in parameters or not all(isinstance(part, dict) for part in parameters.values()):
        return {"": parameters}
    return {f" ({kind})": part for kind, part in parameters.items()}


def rope_json(config: Any) -> str:
    """RoPE parameters as canonical JSON; "null" for a model without RoPE."""
    return canonical(getattr(config, "rope_parameters", None))


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def kv_shape(config: Any) -> tuple[int, int, int]:
    """(layers, kv heads, head size) that the configuration promises; the first forward pass checks them."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return config.num_hidden_layers, kv_heads, getattr(config, "head_dim", None) or config.hidden_size // heads


def max_positions(config: Any) -> int:
    """The longest sequence the configuration names. Raises ModelRefused if it names none."""
    longest = getattr(config, "max_position_embeddings", None)
    if not longest:
        raise ModelRefused("config.json names no max_position_embeddings")
    return int(longest)


def layer_window(config: Any, layer: int) -> int | None:
    """Sliding window of ``layer`` as configured: at most this many tokens are visible, its own included."""
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[layer] != "sliding_attention":
        return None
    window = getattr(config, "sliding_window", None)
    return int(window) if window else None
