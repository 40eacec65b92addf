"""What a model's configuration must say before its weights are worth loading.

Owns the reading of transformers configurations: sizes of keys and values, RoPE, sliding windows, and the refusals
that need no weights. There is no table of model names: a configuration is judged by the fields it has, and the
self-test at load judges the rest by running it.

A model that also sees images is judged by its text part: shapes, positions and windows are those of the text
configuration, and images are refused where they are asked for.

Refused here, with the reason: weights quantised with a method that is not served; encoders, encoder-decoders,
classifiers; models whose code computes attention itself instead of asking AttentionInterface for it; layers of
different head sizes; what needs another mechanism than blocks of keys and values (``demands.mechanisms``). For which
lengths RoPE can be served, ``demands.positions`` says.
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
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from .demands.mechanisms import check_mechanisms
from .model_files import check_directory, read_json
from .refusal import ModelRefused
from .weights.quantisation import check_quantisation

__all__ = ["ModelRefused", "canonical", "kv_shape", "layer_window", "read_config", "rope_json", "text_config"]

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


def text_config(config: Any) -> Any:
    """The part of a model's configuration that its text layers are made by; the whole for a model of text alone."""
    return config.get_text_config(decoder=True)


def sees_images(config: Any) -> bool:
    """Whether it has parts beside the text decoder, and transformers a class that has them all, or no other."""
    whole = text_config(config) is not config or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return whole and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _check(config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused("an encoder-decoder: only decoders are served")
    if not sees_images(config) and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelRefused(f"a model of type {config.model_type!r}: only text decoders are served")
    text = text_config(config)
    if getattr(text, "is_encoder_decoder", False):
        raise ModelRefused("the text part is an encoder-decoder: only decoders are served")
    check_mechanisms(text)
    if own := _own_attention(str(sys.modules[type(text).__module__].__file__)):
        why = ": it adds ALiBi biases to the scores" if own == "alibi" and getattr(text, "alibi", True) else ""
        raise ModelRefused(f"a {text.model_type} model does not take its attention from AttentionInterface{why}")


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


def rope_json(config: Any) -> str:
    """RoPE parameters as canonical JSON; "null" for a model without RoPE."""
    return canonical(getattr(config, "rope_parameters", None))


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def kv_shape(config: Any) -> tuple[int, int, int]:
    """(layers, kv heads, head size) that the configuration promises; the first forward pass checks them.

    The head size is the larger of keys' and values'. Latents (MLA) count as what the model expands them to: a key and
    a value for every query head. Raises ModelRefused if it promises none, or not the same for all layers.
    """
    try:
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        if latent_width(config):
            kv_heads, width = heads, config.qk_nope_head_dim + config.qk_rope_head_dim
        return config.num_hidden_layers, kv_heads, max(width, getattr(config, "v_head_dim", None) or 0)
    except RuntimeError:  # a value that differs by layer, which transformers refuses to give
        raise ModelRefused("layers with heads of different sizes: a pool has blocks of one size") from None
    except AttributeError as error:
        raise ModelRefused(f"no attention to share: config.json gives no {error.name or 'heads'}") from None
    except (TypeError, ZeroDivisionError) as error:
        raise ModelRefused(f"config.json gives no usable number of heads or layers: {error}") from None


def latent_width(config: Any) -> int:
    """Numbers that a layer of multi-head latent attention (MLA) keeps of a token, as published; 0 for other models."""
    return int(config.kv_lora_rank + config.qk_rope_head_dim) if getattr(config, "kv_lora_rank", None) else 0


def widest_window(config: Any) -> int | None:
    """The widest sliding window of all layers: no token sees further back; None if a layer has none."""
    windows = [layer_window(config, layer) for layer in range(config.num_hidden_layers)]
    known = [window for window in windows if window is not None]
    return max(known) if known and len(known) == len(windows) else None


def layer_window(config: Any, layer: int) -> int | None:
    """Sliding window of ``layer`` as configured: at most this many tokens are visible, its own included."""
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[layer] != "sliding_attention":
        return None
    window = getattr(config, "sliding_window", None)
    return int(window) if window else None
