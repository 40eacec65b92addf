"""Beam search, as vLLM spells it: ``use_beam_search`` with ``n`` beams, ``best_of`` where only ``n`` are wanted.

The search is the engine's (``quire_engine.beams``), that of transformers. What draws tokens or changes their logits
means nothing in it and is refused, and so is what would need the answer before the search is over.
"""

from __future__ import annotations

from typing import Any

from quire_services.gateway.http.errors import invalid
from quire_services.gateway.openai.bodies import Body
from quire_services.gateway.openai.logits.prompt_scores import scored

from .best_of import generated

_NEUTRAL: dict[str, tuple[Any, ...]] = {  # null is neutral everywhere
    "temperature": (0, 1), "top_p": (1,), "top_k": (0, -1), "min_p": (0,), "frequency_penalty": (0,),
    "presence_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},), "allowed_token_ids": ([],),
    "bad_words": ([],), "stop": ([],), "stream": (False,),
}  # fmt: skip


def check_beam_search(body: Body) -> None:
    """Raise ApiError 400 for what does not go together with a search, or means something in one only."""
    if not body.use_beam_search:
        if body.length_penalty not in (None, 1) or body.early_stopping:
            name = "early_stopping" if body.early_stopping else "length_penalty"
            raise invalid(f"{name!r} needs 'use_beam_search': true", name)
        return
    for name, neutral in _NEUTRAL.items():
        value = getattr(body, name)
        if value is not None and value not in neutral:
            raise invalid(f"{name!r} cannot be given with 'use_beam_search'", name)
    if scored(body):
        name = "echo" if body.prompt_logprobs is None else "prompt_logprobs"
        raise invalid("a prompt's log-probabilities cannot be had with 'use_beam_search'", name)


def beam_search(body: Body) -> dict[str, Any]:
    """Fields of ``Sampling``, those of the model's own defaults for drawing included. One beam is a greedy answer."""
    if not body.use_beam_search:
        return {}
    early = body.early_stopping
    return {
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "beam_width": generated(body) if generated(body) > 1 else 0,
        "length_penalty": 1.0 if body.length_penalty is None else body.length_penalty,
        "early_stopping": early if isinstance(early, str) else "at_once" if early else "",
    }
