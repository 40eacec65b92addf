"""A model without weights: transformers' classes and a configuration, with tensors that have shapes and no content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.initialization import no_init_weights

from quire_engine.attention.hook import ATTENTION_NAME
from quire_engine.checkpoint.architecture import read_config
from quire_engine.checkpoint.shared.directory import Unshared
from quire_engine.model.weights import keep_text, transformers_class


def bare_model(directory: Path, dtype: torch.dtype) -> Any:
    """What ``load_module`` gives for the model in ``directory``, but for its tensors.

    Raises ModelRefused, OSError; Unshared if transformers cannot make it without weights.
    """
    config = read_config(directory)
    if getattr(config, "quantization_config", None):
        del config.quantization_config  # what is kept is not quantised any more
    try:
        with torch.device("meta"), no_init_weights():
            module = transformers_class(config).from_config(
                config, dtype=dtype, attn_implementation=ATTENTION_NAME, trust_remote_code=False
            )
    except Exception as error:  # of any kind: the model's code may look at what it makes
        raise Unshared(f"transformers cannot make it without weights: {type(error).__name__}: {error}") from None
    keep_text(module)
    module.generation_config = _generation_config(directory)
    return module.eval().requires_grad_(False)


def _generation_config(directory: Path) -> Any:
    """As loading a checkpoint finds it."""
    try:
        return GenerationConfig.from_pretrained(directory, local_files_only=True)
    except OSError:
        return GenerationConfig.from_pretrained(
            directory, config_file_name="config.json", local_files_only=True, _from_model_config=True
        )
