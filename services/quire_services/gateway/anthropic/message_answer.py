"""Message answer: what a chat's only choice becomes in Anthropic's API: a message, whole or as events of a stream.

The tokens of the prompt are told in two figures that add up to it: read from the cache, and all others. Nothing is
told as written to the cache, because nothing is written that would not be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.http.request_log import RequestRecord
from quire_services.gateway.text.choices import Choice, Delta
from quire_services.gateway.tools.shapes.message_blocks import MessageBlocks

from .api_errors import error_body
from .bodies import MessageChat


class MessageAnswer:
    """One answer.

    Args:
        body: the request.
        record: what has been used.
    """

    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, body: MessageChat, record: RequestRecord) -> None:
        self._record = record
        self._head = {"id": "msg_" + record.id_suffix, "type": "message", "role": "assistant", "model": body.model}
        self._to_the_window = body.max_tokens == -1
        self._blocks = MessageBlocks(body.thinking_shown)
        self._last = Delta()

    def whole(self, answered: Sequence[tuple[Choice, Delta]]) -> dict[str, Any]:
        """The message."""
        ((_, total),) = answered
        self._blocks.events(total.events)
        self._blocks.finish()
        return {**self._head, "content": self._blocks.content(), **self._end(total), "usage": self._usage()}

    def opening(self) -> Iterator[bytes]:
        """The event that begins a stream. What of the prompt came from the cache is known by the end at the latest."""
        nothing: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": self._usage()}
        yield _event({"type": "message_start", "message": self._head | nothing})

    def events(self, choice: Choice, delta: Delta) -> Iterator[bytes]:  # noqa: ARG002 - there is one
        """The events of one delta."""
        yield from map(_event, self._blocks.events(delta.events))
        self._last = delta

    def ending(self) -> Iterator[bytes]:
        """The events that end a stream."""
        yield from map(_event, self._blocks.finish())
        yield _event({"type": "message_delta", "delta": self._end(self._last), "usage": self._usage()})
        yield _event({"type": "message_stop"})

    def failure(self, error: ApiError) -> bytes:
        """The event with which a stream breaks off."""
        return _event(error_body(error, self._record.request_id))

    def _end(self, last: Delta) -> dict[str, Any]:
        reason = self._blocks.stop_reason(last.finish or "stop", last.stop is not None)
        if reason == "max_tokens" and self._to_the_window:
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": last.stop}

    def _usage(self) -> dict[str, int]:
        cached = self._record.cached_tokens
        return {
            "input_tokens": self._record.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self._record.completion_tokens,
        }


def _event(said: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (said["type"].encode(), orjson.dumps(said))
