"""What a model's configuration must say before its weights are worth loading.

Owns the reading of transformers configurations: sizes of keys and values, RoPE, sliding windows, and the refusals
that need no weights. There is no table of model names: a configuration is judged by the fields it has, and the
self-test at load judges the rest by running it.

Refused here, with the reason: weights quantised with a method that is not served; encoders, encoder-decoders,
classifiers and models of several modalities; models whose code computes attention itself instead of asking
AttentionInterface for it; layers that share another layer's keys, or differ in the size of their heads; attention that
is neither full nor a sliding window; RoPE whose frequencies depend on the lengths in the batch, because then a block's
content would depend on its neighbours and could not be shared.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .model_files import check_directory, read_json
from .refusal import ModelRefused
from .weights.quantisation import check_quantisation

__all__ = ["ModelRefused", "canonical", "kv_shape", "layer_window", "max_positions", "read_config", "rope_json"]

BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")
LAYER_TYPES = ("full_attention", "sliding_attention")


# Heads that give no logits of tokens: what config.json calls a classifier, a reward model, an extractor.
NO_LM_HEAD = re.compile(r"For(Sequence|Token|Image|Audio)Classification|ForQuestionAnswering|ForMultipleChoice|Reward")


def read_config(directory: Path) -> Any:
    """The checked configuration of the model in ``directory``. Raises ModelRefused or OSError."""
    check_directory(directory)
    file = directory / "config.json"
    fields = read_json(file)
    check_quantisation(file, fields)
    _check_kind(file, fields)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:  # of any kind: transformers checks few of the values that it reads
        raise ModelRefused(f"transformers cannot read {file}: {error}") from error
    _check(config)
    return config


def _check_kind(file: Path, fields: dict[str, Any]) -> None:
    """What model this is, by the names in config.json, before transformers looks at the rest of it."""
    kind = fields.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelRefused(f"{file} names no model_type: not the configuration of a transformers model")
    if kind not in CONFIG_MAPPING:
        own = "auto_map" in fields
        why = "it comes with code of its own (auto_map), which is never run" if own else "a newer model, or misspelt"
        raise ModelRefused(f"{file}: transformers {transformers.__version__} knows no model_type {kind!r}: {why}")
    names = fields.get("architectures") or []
    for name in names if isinstance(names, list) else ():
        if NO_LM_HEAD.search(str(name)):
            raise ModelRefused(f"{file} says {name}: it has no head that gives tokens; only text decoders are served")


def _check(config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused("an encoder-decoder: only decoders are served")
    if config.get_text_config() is not config:
        raise ModelRefused("a model of several modalities: only text decoders are served")
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelRefused(f"a model of type {config.model_type!r}: only text decoders are served")
    if getattr(config, "num_kv_shared_layers", 0):
        raise ModelRefused("layers that share another layer's keys and values (num_kv_shared_layers)")
    for kind in getattr(config, "layer_types", None) or ():
        if kind not in LAYER_TYPES:
            raise ModelRefused(f"layers of type {kind!r}: only {' and '.join(LAYER_TYPES)} are served")
    if own := _own_attention(str(sys.modules[type(config).__module__].__file__)):
        why = ": it adds ALiBi biases to the scores" if own == "alibi" and getattr(config, "alibi", True) else ""
        raise ModelRefused(f"a {config.model_type} model does not take its attention from AttentionInterface{why}")
    for name, rope in _ropes(config).items():
        kind = str(rope.get("rope_type", "default"))
        if kind in BATCH_DEPENDENT_ROPE:
            raise ModelRefused(f"RoPE of type {kind!r}{name}: its frequencies depend on the lengths in the batch")


@cache
def _own_attention(configuration: str) -> str:
    """Whether models with this configuration file compute attention themselves: "" if not, "alibi" if their code knows
    of ALiBi, or "own". Read from the modelling file beside it: to import that would need torch.
    """
    beside = Path(configuration)
    code = beside.with_name(beside.name.replace("configuration_", "modeling_"))
    if code == beside or not code.is_file():
        return ""
    text = code.read_text(encoding="utf-8")
    if "ALL_ATTENTION_FUNCTIONS" in text:
        return ""
    return "alibi" if "alibi" in text.lower() else "own"


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
    """(layers, kv heads, head size) that the configuration promises; the first forward pass checks them.

    Raises ModelRefused if it promises none, or not the same for all layers.
    """
    try:
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        return config.num_hidden_layers, kv_heads, getattr(config, "head_dim", None) or config.hidden_size // heads
    except RuntimeError:  # a value that differs by layer, which transformers refuses to give
        raise ModelRefused("layers with heads of different sizes: a pool has blocks of one size") from None
    except AttributeError as error:
        raise ModelRefused(f"no attention to share: config.json gives no {error.name or 'heads'}") from None
    except (TypeError, ZeroDivisionError) as error:
        raise ModelRefused(f"config.json gives no usable number of heads or layers: {error}") from None


def max_positions(config: Any) -> int:
    """The longest sequence the configuration names. Raises ModelRefused if it names none."""
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int) or longest < 1:
        raise ModelRefused("config.json names no max_position_embeddings")
    return longest


def layer_window(config: Any, layer: int) -> int | None:
    """Sliding window of ``layer`` as configured: at most this many tokens are visible, its own included."""
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[layer] != "sliding_attention":
        return None
    window = getattr(config, "sliding_window", None)
    return int(window) if window else None
