"""For how many positions a model is served, by its RoPE."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from quire_engine.checkpoint.demands.positions import served_length
from quire_engine.checkpoint.refusal import ModelRefused

LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 4096}


def test_dynamic_rope_is_served_whole():
    """It changes its frequencies beyond the model's length only, where nothing is served."""
    config = SimpleNamespace(max_position_embeddings=8192, rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    assert served_length(config, 0) == 8192


@pytest.mark.parametrize(
    "rope", [LONGROPE, {"full_attention": LONGROPE, "sliding_attention": {"rope_type": "default"}}]
)
def test_longrope_is_served_up_to_its_original_length(rope):
    """Beyond that its frequencies depend on the batch: refused, with the setting that helps."""
    config = SimpleNamespace(max_position_embeddings=131072, rope_parameters=rope)
    assert served_length(config, 4096) == 4096
    for wanted in (0, 4097):
        with pytest.raises(ModelRefused, match=r"lengths in the batch.*set --max-model-len to at most 4096"):
            served_length(config, wanted)


def test_longrope_without_its_original_length_is_refused():
    """There is no telling where it changes."""
    config = SimpleNamespace(max_position_embeddings=8192, rope_parameters={"rope_type": "longrope"})
    with pytest.raises(ModelRefused, match="without original_max_position_embeddings"):
        served_length(config, 0)
