"""Loading weights, and the proof that every weight of the model came from the checkpoint.

transformers fills what a checkpoint lacks with random numbers and passes over what the model has no place for, with a
warning for each. An engine that did so would answer from noise, and every engine of a stack from its own. So all that
transformers reports is judged here: what is missing, has another shape or is no number refuses the model; what is left
over refuses it too, unless it belongs to a part that a text decoder never runs. That is also vLLM's rule.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import structlog
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging as transformers_logging

from quire_engine.attention.hook import ATTENTION_NAME
from quire_engine.checkpoint.architecture import sees_images, text_config
from quire_engine.checkpoint.refusal import ModelRefused, first_line
from quire_engine.checkpoint.weights.quantisation import UNQUANTISED
from quire_engine.checkpoint.weights.weight_files import check_weights, some

from .quantised import widen

# Left over, and no part of what a text decoder computes: buffers that are computed anew, further heads that guess
# several tokens ahead, and the towers of other modalities.
UNUSED = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|inv_freq|position_ids|masked_bias|attn\.bias|num_batches_tracked)$"
    r"|(^|\.)(mtp|mtp_layers|nextn|medusa_head|vision_tower|vision_model|visual|vision_encoder|vision_embed_tokens"
    r"|audio_tower|audio_model|embed_vision|embed_audio|image_newline|multi_modal_projector|mm_projector)(\.|$)"
)
LAYER = re.compile(r"(^|\.)(layers|h|blocks)\.(\d+)\.")
QUANTISED = re.compile(r"scale|zero_?point|qweight|qzeros|g_idx|absmax|quant|packed|\.SCB$", re.IGNORECASE)
# Of quantised activations, and of keys and values that others store in fp8.
ACTIVATIONS = re.compile(r"\.((input|activation|output)_(scale|zero_point|global_scale)|[kv]_scale)$")
ADAPTER = re.compile(r"lora_|base_layer|adapter", re.IGNORECASE)

log = structlog.get_logger()


def load_module(directory: Path, config: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """transformers' model with all weights of the checkpoint, in evaluation mode on ``device``. Raises ModelRefused."""
    check_weights(directory)
    quantised = bool(getattr(config, "quantization_config", None))  # transformers takes it away
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)  # its report of the keys is what is judged below
    try:
        module, report = transformers_class(config).from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report names them, an exception would not
        )
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of any kind: transformers and the model's code trust what the files say
        raise ModelRefused(_why(error, config)) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    judge_report(report, config, quantised)
    if quantised:
        widen(module, dtype)
    _check_numbers(module)
    keep_text(module)
    return module.eval().requires_grad_(False).to(device)


def transformers_class(config: Any) -> Any:
    """The class of transformers' that loads a checkpoint: of a model that sees images the one with all its parts,
    because its weights have the names of that class."""
    return AutoModelForImageTextToText if sees_images(config) else AutoModelForCausalLM


def keep_text(module: Any) -> None:
    """Give up the parts of a model that no text goes through: what lies beside its decoder, embeddings and head."""
    if not sees_images(module.config):
        return
    kept = [module.get_decoder(), module.get_input_embeddings(), module.get_output_embeddings()]
    inside = {part for root in kept if root is not None for part in root.modules()}
    above = [part for part in module.modules() if part not in inside and inside & set(part.modules())]
    for parent in above:
        for name, child in list(parent.named_children()):
            if child not in inside and child not in above:
                setattr(parent, name, None)


def judge_report(report: dict[str, Any], config: Any, quantised: bool = False) -> None:
    """Raise ModelRefused unless what transformers reports of the loading leaves the model whole; of a checkpoint that
    was ``quantised``, scales of activations are not used."""
    left = sorted(key for key in report["unexpected_keys"] if not _is_unused(key, config))
    if quantised:
        left = [key for key in left if not ACTIVATIONS.search(key)]
    if packed := [key for key in left if QUANTISED.search(key)]:
        raise ModelRefused(
            f"the checkpoint holds {len(packed)} scales or packed weights of a quantised model ({some(packed)}),"
            f" which would not be applied: {UNQUANTISED}"
        )
    if missing := report["missing_keys"]:
        raise ModelRefused(
            f"the checkpoint lacks {len(missing)} weights of {_class_name(config)} ({some(missing)}){_instead(left)}:"
            " take a complete checkpoint of this text model"
        )
    if mismatched := report["mismatched_keys"]:
        key, found, expected = min(mismatched)
        raise ModelRefused(
            f"{len(mismatched)} weights have other shapes than config.json says ({key} is {list(found)}, not"
            f" {list(expected)}): config.json and weights are of different models"
        )
    if left:
        raise ModelRefused(
            f"the checkpoint holds {len(left)} weights that {_class_name(config)} has no place for ({some(left)}):"
            f" {_fix(left)}"
        )
    if unused := report["unexpected_keys"]:
        log.warning("weights_not_used", count=len(unused), some=some(unused))


def _is_unused(key: str, config: Any) -> bool:
    layer = LAYER.search(key)
    text = text_config(config)
    further = int(layer[3]) - int(text.num_hidden_layers) if layer else -1
    return bool(UNUSED.search(key)) or 0 <= further < (getattr(text, "num_nextn_predict_layers", None) or 0)


def _instead(left: list[str]) -> str:
    """What the checkpoint holds in the place of what it lacks."""
    return f" and holds {len(left)} that are none of it ({some(left)})" if left else ""


def _fix(left: list[str]) -> str:
    if any(ADAPTER.search(key) for key in left):
        return "merge the adapter into its base model and serve that"
    if any(LAYER.search(key) for key in left):
        return "config.json and weights are of different models"
    return "it was made for something else than text generation; serve the language model it was made from"


def _class_name(config: Any) -> str:
    return str((getattr(config, "architectures", None) or [f"a {config.model_type} model"])[0])


def _why(error: Exception, config: Any) -> str:
    """What an exception out of transformers means, in one line."""
    text = first_line(error)
    if isinstance(error, KeyError) and ATTENTION_NAME in text:
        return f"a model of type {config.model_type!r} does not take its attention from AttentionInterface"
    if isinstance(error, ValueError):
        return text
    return f"transformers cannot load it: {type(error).__name__}: {text}"


@torch.inference_mode()
def _check_numbers(module: torch.nn.Module) -> None:
    """Raise ModelRefused for weights that are not finite: damaged ones, or such as a narrower type cannot hold."""
    wrong = [
        name
        for name, weight in module.named_parameters()
        if weight.is_floating_point()
        and weight.element_size() > 1
        and weight.numel()
        and not all(end.isfinite() for end in weight.aminmax())
    ]
    if wrong:
        dtype = str(module.get_parameter(wrong[0]).dtype).removeprefix("torch.")
        raise ModelRefused(
            f"{len(wrong)} weights hold values that are no finite numbers in {dtype} ({some(wrong)}): the checkpoint is"
            " damaged, or needs a wider kvstore.dtype"
        )
