"""Penalties, bias and allowed tokens: what a request wants done to the logits, for the engine.

Ranges are those of the body's fields; here tokens are checked against the model's vocabulary, once for all prompts of a
request.
"""

from __future__ import annotations

from typing import Any

from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.http.errors import invalid
from quire_services.gateway.openai.bodies import Body
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults


def adjustments(body: Body, limits: Limits, defaults: SamplingDefaults) -> dict[str, Any]:
    """Fields of ``Sampling``. Raises ApiError 400."""
    bias = {_token(key, limits): value for key, value in (body.logit_bias or {}).items()}
    allowed = body.allowed_token_ids or []
    if allowed and max(allowed) >= limits.vocab_size:
        raise invalid(f"token id {max(allowed)} is outside the vocabulary", "allowed_token_ids")
    repetition = defaults.repetition_penalty if body.repetition_penalty is None else body.repetition_penalty
    return {
        "frequency_penalty": body.frequency_penalty or 0.0,
        "presence_penalty": body.presence_penalty or 0.0,
        "repetition_penalty": repetition,
        "bias_token_ids": pack_u32(bias),
        "bias": tuple(bias.values()),
        "allowed_token_ids": pack_u32(allowed),
    }


def _token(key: str, limits: Limits) -> int:
    """The token that a key of ``logit_bias`` names."""
    token = int(key) if key.isascii() and key.isdigit() and len(key) <= 10 else -1
    if token < 0 or str(token) != key:
        raise invalid(f"'logit_bias' has the key {key[:20]!r}, which is no token id", "logit_bias")
    if token >= limits.vocab_size:
        raise invalid(f"token id {token} is outside the vocabulary", "logit_bias")
    return token
