"""Positions: how many a model is made for, and up to how many its RoPE is one and the same.

A block is shared as long as its keys do not depend on what else was computed beside them. Two kinds of RoPE choose
their frequencies by the longest sequence of the batch. *dynamic* does so only beyond the positions that the model is
made for, where nothing is served, so it is exact. *longrope* has two sets and takes the second one from
``original_max_position_embeddings`` on: below that it is exact, and beyond it refused.
"""

from __future__ import annotations

from typing import Any

from quire_engine.checkpoint.refusal import ModelRefused

LONGROPE = "longrope"


def max_positions(config: Any) -> int:
    """The longest sequence the configuration names. Raises ModelRefused if it names none."""
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int) or longest < 1:
        raise ModelRefused("config.json names no max_position_embeddings")
    return longest


def served_length(config: Any, wanted: int) -> int:
    """Tokens of the longest sequence to be served: ``wanted``, or what the model is made for if that is 0. Raises
    ModelRefused if the model is not made for it, or its keys would depend on their neighbours."""
    longest = max_positions(config)
    if wanted > longest:
        raise ModelRefused(f"--max-model-len {wanted}: the model is made for {longest} tokens; say at most that")
    served, exact = wanted or longest, exact_positions(config)
    if served > exact:
        raise ModelRefused(
            f"RoPE of type {LONGROPE!r}: for more than {exact} tokens its frequencies depend on the lengths in the"
            f" batch, so that blocks could not be shared: set --max-model-len to at most {exact}"
        )
    return served


def exact_positions(config: Any) -> int:
    """Positions up to which a key depends on nothing but its own sequence."""
    exact = max_positions(config)
    for rope in _ropes(config):
        if rope.get("rope_type") == LONGROPE:
            named = rope.get("original_max_position_embeddings")
            named = named or getattr(config, "original_max_position_embeddings", None)
            if not isinstance(named, int) or named < 1:
                raise ModelRefused(f"RoPE of type {LONGROPE!r} without original_max_position_embeddings")
            exact = min(exact, named)
    return exact


def _ropes(config: Any) -> list[dict[str, Any]]:
    """RoPE parameters, one set for all layers or one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in parameters or not all(isinstance(part, dict) for part in parameters.values()):
        return [parameters]
    return list(parameters.values())
