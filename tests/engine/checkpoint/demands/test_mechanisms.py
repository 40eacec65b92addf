"""Models that keep or read more than blocks hold are refused with the mechanism that they would need."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from quire_engine.checkpoint.demands.mechanisms import check_mechanisms
from quire_engine.checkpoint.refusal import ModelRefused

REFUSED = {
    "mamba": ({"layer_types": ["full_attention", "linear_attention"]}, "'linear_attention': a recurrent state"),
    "rwkv": ({"rescale_every": 6}, r"without attention \(rescale_every\): a recurrent state, which needs a pool"),
    "llama4": ({"layer_types": ["chunked_attention"]}, "chunked attention, which needs masks"),
    "deepseek_v32": ({"layer_types": ["indexed_attention"]}, "needs their index beside the blocks"),
    "gemma3n": ({"num_kv_shared_layers": 2}, "share another layer's keys and values .*, which needs tables by layer"),
    "unheard of": ({"layer_types": ["holographic"]}, "'holographic': only full_attention and sliding_attention"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_mechanism_is_named(case):
    """The refusal says which layers, and what would have to stand beside the blocks."""
    fields, words = REFUSED[case]
    with pytest.raises(ModelRefused, match=words):
        check_mechanisms(SimpleNamespace(**fields))


def test_layers_of_attention_pass():
    """Full and windowed attention are served, also in a model that could have a state and has none."""
    check_mechanisms(SimpleNamespace(layer_types=["full_attention", "sliding_attention"], mamba_d_state=16))
    check_mechanisms(SimpleNamespace())
