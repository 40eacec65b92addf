"""How far any layer of a model sees back, as its configuration says it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from quire_engine.checkpoint.architecture import widest_window

LAYERS = {"num_hidden_layers": 4}
MIXED = ["sliding_attention", "full_attention"] * 2


@pytest.mark.parametrize(
    ("family", "options", "widest"),
    [
        ("mistral", {"sliding_window": 64}, 64),
        ("mistral", {"sliding_window": None}, None),
        ("phi3", {"sliding_window": 2047}, 2047),
        ("gemma2", {"sliding_window": 64}, None),
        ("gpt_oss", {"sliding_window": 128, "layer_types": MIXED}, None),
        ("gpt_oss", {"sliding_window": 128, "layer_types": ["sliding_attention"] * 4}, 128),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2}, None),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}, 64),
        ("llama", {}, None),
    ],
)
def test_one_layer_without_a_window_sees_everything(family: str, options: dict[str, Any], widest: int | None) -> None:
    """The widest window of all layers, or none."""
    assert widest_window(AutoConfig.for_model(family, **LAYERS, **options)) == widest
