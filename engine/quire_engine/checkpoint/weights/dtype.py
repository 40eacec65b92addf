"""The element type that a model computes in, where ``auto`` is asked for: the one that its checkpoint is in.

config.json names it (``dtype``, in older files ``torch_dtype``; of several modalities that of the text counts). Where
it names none, or one that nothing here computes in, the weights decide: the type that holds most of their elements. It
is read from the heads of the files alone, so that every process of a stack, with torch or without, comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quire_engine.checkpoint.model_files import check_directory, read_json
from quire_engine.checkpoint.refusal import ModelRefused

from .weight_files import check_weights, stored_elements

AUTO_DTYPE = "auto"
COMPUTED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # name of torch -> name of safetensors


def compute_dtype(directory: Path, wanted: str) -> str:
    """``wanted``, or for ``auto`` the type of the checkpoint in ``directory``. Raises ModelRefused or OSError."""
    if wanted != AUTO_DTYPE:
        if wanted not in COMPUTED:
            raise ModelRefused(f"dtype {wanted!r} is none of {', '.join([AUTO_DTYPE, *COMPUTED])}")
        return wanted
    check_directory(directory)
    fields = read_json(directory / "config.json")
    for part in (fields.get("text_config"), fields):
        if isinstance(part, Mapping) and (named := _named(part)):
            return named
    check_weights(directory)
    stored = stored_elements(directory)
    found = max(COMPUTED, key=lambda name: stored[COMPUTED[name]])
    return found if stored[COMPUTED[found]] else "float32"


def _named(fields: Mapping[str, Any]) -> str:
    """The type that a part of config.json names, "" for none that is computed in."""
    name = str(fields.get("dtype") or fields.get("torch_dtype") or "").removeprefix("torch.")
    return name if name in COMPUTED else ""
