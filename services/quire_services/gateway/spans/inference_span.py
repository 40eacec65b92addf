"""The span of a call of a model, from its submission to engines to the last token, in the terms of OpenTelemetry's
conventions for generative AI (``gen_ai.*``): what was asked for and how much came, and nothing that was said.

Those that hold content are left out on purpose: messages, instructions, tools, and stop sequences too.
"""

from __future__ import annotations

from collections.abc import Sequence

from quire_proto.gateway_link import Sampling
from quire_proto.spans import CLIENT, Attributes, Span
from quire_services.gateway.http.errors import ApiError, ClientGone
from quire_services.gateway.http.request_log import RequestRecord
from quire_services.gateway.openai.bodies import Body, CompletionBody

PROVIDER = "quire"
CHAT_OPERATION, COMPLETION_OPERATION = "chat", "text_completion"


def begin_inference_span(record: RequestRecord, body: Body, sampling: Sampling) -> Span | None:
    """Begin the span of a request's call, if that is traced. ``sampling``: what holds for it, defaults put in."""
    if record.span is None:
        return None
    operation = COMPLETION_OPERATION if isinstance(body, CompletionBody) else CHAT_OPERATION
    told: dict[str, str | bool | int | float] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": body.model,
        "gen_ai.request.stream": bool(body.stream),
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
    }
    if (body.n or 1) != 1:
        told["gen_ai.request.choice.count"] = body.n or 1
    if sampling.top_k:
        told["gen_ai.request.top_k"] = sampling.top_k
    return record.span.child(f"{operation} {body.model}", CLIENT, told)


def end_inference_span(
    span: Span, record: RequestRecord, finishes: Sequence[str], failed: ApiError | ClientGone | None
) -> None:
    """Nothing more of it comes. ``finishes``: why each choice ended; ``failed``: what has ended all of it."""
    told: dict[str, str | int | float | Sequence[str]] = {
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.response.finish_reasons": finishes,
        "quire.engines": record.engines,
        "quire.moves": record.moves,
        "quire.recomputed_tokens": record.recomputed,
    }
    if record.ttft_s is not None:
        told["gen_ai.response.time_to_first_chunk"] = record.ttft_s
    code = (failed.code or str(failed.status)) if isinstance(failed, ApiError) else ""
    ended: Attributes = {**told, "quire.outcome": "client_gone"} if isinstance(failed, ClientGone) else told
    span.end(ended, error=code)
