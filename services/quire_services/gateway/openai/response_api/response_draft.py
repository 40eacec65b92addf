"""Response draft: what of a request is needed when it is answered.

It is made where the request is read, for a long body that is another process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from quire_services.gateway.http.errors import invalid
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults

from .conversation.input_items import Item
from .response_body import ResponseBody

MAX_REPEATED_BYTES = 256 << 10  # of instructions, tools and format; longer ones are not in the response


@dataclass(slots=True)
class ResponseDraft:
    """A response as far as its request says it.

    Attributes:
        repeated: fields of the response that repeat the request.
        items: the input that is new, as JSON, an item a line; empty if it is not to be kept.
        many: how many items that is.
        previous: the response that it goes on from, if there is one.
        store: whether it is to be kept; None: the client does not say.
        sealed: reasoning is to come sealed, too.
    """

    repeated: dict[str, Any] = field(default_factory=dict)
    items: bytes = b""
    many: int = 0
    previous: str = ""
    store: bool | None = None
    sealed: bool = False


def draft_of(body: ResponseBody, chat: ChatBody, items: Sequence[Item], defaults: SamplingDefaults) -> ResponseDraft:
    """The draft of a request that has these items. Raises ApiError 400 for what JSON cannot say."""
    kept = b"" if body.store is False else as_lines(items)
    repeated = orjson.loads(as_json(_repeated(body, chat, defaults)))
    return ResponseDraft(repeated, kept, len(items), body.previous_response_id or "", body.store, body.wants_sealed)


def _repeated(body: ResponseBody, chat: ChatBody, defaults: SamplingDefaults) -> dict[str, Any]:
    long: dict[str, Any] = {
        "instructions": body.instructions,
        "tools": body.tools or [],
        "tool_choice": body.tool_choice or "auto",
        "text": {"format": (body.text and body.text.format) or {"type": "text"}},
    }
    if len(as_json(long)) > MAX_REPEATED_BYTES:
        long = {"instructions": None, "tools": [], "tool_choice": "auto", "text": {"format": {"type": "text"}}}
    return {
        "background": False,
        "max_output_tokens": None if body.max_output_tokens == -1 else body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": chat.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "temperature": defaults.temperature if chat.temperature is None else chat.temperature,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": defaults.top_p if chat.top_p is None else chat.top_p,
        "truncation": body.truncation or "disabled",
        "user": body.user,
        **long,
    }


def as_lines(items: Iterable[Item]) -> bytes:
    """Items as JSON, one a line."""
    return b"\n".join(map(as_json, items))


def as_json(value: Any) -> bytes:
    """A value that Python's parser has read, as JSON on one line; halves of characters become question marks. Raises
    ApiError 400 for numbers that JSON's readers do not take."""
    try:
        return orjson.dumps(value)
    except TypeError:
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    try:
        orjson.loads(written)
    except orjson.JSONDecodeError:
        raise invalid("the body has a number that is too large") from None
    return written
