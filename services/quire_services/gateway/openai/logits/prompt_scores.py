"""Prompt scores: whether a request wants the log-probabilities of its prompt, for how much of it, and vLLM's shape.

OpenAI has them with ``echo`` and ``logprobs`` alone, in the shape of an answer's; ``prompt_logprobs`` is vLLM's field
in both APIs. The prompt is computed whole for them, so its tokens are bounded, and so is what is said of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire_engine.checkpoint.token_bytes import TokenBytes
from quire_proto.gateway_link import TokenLogprob
from quire_proto.wire.u32 import unpack_u32
from quire_services.gateway.http.errors import invalid
from quire_services.gateway.openai.bodies import Body, CompletionBody
from quire_services.gateway.openai.logprob_shapes import finite

MAX_SCORED = 8192  # tokens of prompts whose log-probabilities are sent back, over all choices
MAX_SCORED_ALTERNATIVES = 49_152  # of all these tokens, each token counted as one


def echoes_scores(body: Body) -> bool:
    """Whether the log-probabilities of the prompt come before those of the answer."""
    return isinstance(body, CompletionBody) and bool(body.echo) and body.logprobs is not None


def scored(body: Body) -> int:
    """Log-probabilities of the prompt that a request wants: 0 for none, else the number of alternatives + 1."""
    echoed = body.logprobs + 1 if isinstance(body, CompletionBody) and body.logprobs is not None and body.echo else 0
    return max(echoed, 0 if body.prompt_logprobs is None else body.prompt_logprobs + 1)


def check_scored(body: Body, tokens: int) -> None:
    """Raise ApiError 400 for prompts of so many ``tokens`` over all choices that are too long to be scored."""
    rows = scored(body)
    if not rows:
        return
    named = "'prompt_logprobs'" if body.prompt_logprobs is not None else "'echo' with 'logprobs'"
    param = "echo" if body.prompt_logprobs is None else "prompt_logprobs"
    if tokens > MAX_SCORED:
        raise invalid(f"{named} is for up to {MAX_SCORED} tokens of prompts, over all choices", param)
    if tokens * rows > MAX_SCORED_ALTERNATIVES:
        most = MAX_SCORED_ALTERNATIVES // rows
        raise invalid(f"{named} with {rows - 1} alternatives is for up to {most} tokens of prompts", param)
    if body.prompt_logprobs is not None and body.stream:
        raise invalid("'prompt_logprobs' is not served in a stream: leave 'stream' out", "prompt_logprobs")


def prompt_logprobs(
    tokens: Sequence[int], found: Sequence[TokenLogprob], names: TokenBytes, top: int
) -> list[dict[str, Any] | None]:
    """vLLM's ``prompt_logprobs``: null for the first token, then for each one an object of it and of the ``top`` most
    likely in its place, by token id."""
    spelled: dict[int, str] = {}

    def entry(token: int, logprob: float, rank: int) -> dict[str, Any]:
        if token not in spelled:
            spelled[token] = names.of(token).decode("utf-8", "replace")
        return {"logprob": finite(logprob), "rank": rank, "decoded_token": spelled[token]}

    out: list[dict[str, Any] | None] = [None]
    for token, score in zip(tokens[1:], found, strict=False):
        likely = zip(unpack_u32(score.top_ids)[:top], score.top_logprobs, strict=False)
        ranked = {str(other): entry(other, value, rank) for rank, (other, value) in enumerate(likely, 1)}
        out.append({str(token): entry(token, score.logprob, score.rank)} | ranked)
    return out
