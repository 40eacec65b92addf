"""Tiny models of all families, with head sizes 32, 48, 64, 80, 96 and 128 and windows shorter than the prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.models.tiny import make_model

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"hidden": 128, "heads": 2, "kv_heads": 1, "layers": 3},  # head size 64
    "qwen2": {"hidden": 192, "heads": 4, "kv_heads": 2},  # 48
    "qwen3": {"head_dim": 80, "heads": 6, "kv_heads": 3},
    "mistral": {"head_dim": 128, "heads": 2, "kv_heads": 2, "window": 64},
    "gemma2": {"head_dim": 96, "heads": 4, "kv_heads": 2, "window": 64, "layers": 4, "seed": 1},
    "phi3": {"hidden": 128, "heads": 4, "kv_heads": 4},  # 32
}


def family_model(directory: Path, family: str) -> Path:
    """The tiny model of ``family``, written to ``directory``."""
    return make_model(directory / family, family, **FAMILIES[family])
