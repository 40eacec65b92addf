"""Response answer: the object of a response, and the events of its stream.

A stream begins with the response as it is before its answer, however long that takes, and ends with it as it is then:
completed, incomplete or failed. It is kept before its end is told, so that a client may go on from it at once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from quire_engine.checkpoint.token_bytes import TokenBytes
from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.http.request_log import RequestRecord
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.logprob_shapes import chat_logprobs
from quire_services.gateway.text.choices import Choice, Delta
from quire_services.gateway.tools.shapes.response_items import ResponseItems

from .conversation.text_seal import sealed
from .response_chat import in_own_words
from .response_draft import ResponseDraft

RESPONSE = "resp_"  # what ids begin with
_FAILED = {429: "rate_limit_exceeded"}  # the codes that clients know
Keep = Callable[[bytes, Mapping[str, bytes]], None]


class ResponseAnswer:
    """One response.

    Args:
        body: the request, as a chat.
        draft: the response as far as the request says it.
        record: what has been used.
        names: bytes of tokens, for log-probabilities.
        keep: takes the response and its items, by id, when it is complete; None: it is not kept.
    """

    ping = b": ping\n\n"  # a comment: clients skip it (WHATWG HTML, server-sent events)

    def __init__(
        self, body: ChatBody, draft: ResponseDraft, record: RequestRecord, names: TokenBytes, keep: Keep | None
    ) -> None:
        self._record, self._names, self._keep = record, names, keep
        self._logprobs, self._top = bool(body.logprobs), body.top_logprobs or 0
        head = {"id": RESPONSE + record.id_suffix, "object": "response", "created_at": int(time.time())}
        self._head = head | {"model": body.model} | draft.repeated | {"store": keep is not None}
        self._numbers = itertools.count()
        self._items = ResponseItems(self._numbers.__next__, sealed=sealed if draft.sealed else None)
        self._finish: str | None = None

    def whole(self, answered: Sequence[tuple[Choice, Delta]]) -> dict[str, Any]:
        """The whole response."""
        for _, total in answered:  # there is one
            self._take(total)
        self._items.finish(self._cut)
        return self._ended()

    def opening(self) -> Iterator[bytes]:
        """The events that begin a stream: the response before its answer."""
        for what in ("created", "in_progress"):
            yield self._whole_event(what, self._response("in_progress"))

    def events(self, choice: Choice, delta: Delta) -> Iterator[bytes]:  # noqa: ARG002 - there is one choice
        """The events of one delta."""
        yield from map(_event, self._take(delta))

    def ending(self) -> Iterator[bytes]:
        """The events that end a stream."""
        yield from map(_event, self._items.finish(self._cut))
        response = self._ended()
        yield self._whole_event(response["status"], response)

    def failure(self, error: ApiError) -> bytes:
        """The event with which a stream breaks off."""
        error = in_own_words(error)
        code = _FAILED.get(error.status, "invalid_prompt" if error.status < 500 else "server_error")
        told = {"code": code, "message": error.message, "type": error.type, "param": error.param}
        failed = self._response("failed", error=told, output=self._items.output())
        return self._whole_event("failed", failed)

    @property
    def _cut(self) -> bool:
        return self._finish == "length"

    def _take(self, delta: Delta) -> list[dict[str, Any]]:
        self._finish = delta.finish or self._finish
        entries: list[dict[str, Any]] = []
        if self._logprobs:
            entries = chat_logprobs(delta.tokens, delta.logprobs, self._names, self._top)["content"]
        return self._items.events(delta.events, entries)

    def _ended(self) -> dict[str, Any]:
        """The response as it is in the end; it is kept."""
        output = self._items.output()
        why = {"reason": "max_output_tokens"} if self._cut else None
        status = "incomplete" if self._cut else "completed"
        at = None if self._cut else int(time.time())
        response = self._response(status, output=output, usage=self._usage(), incomplete_details=why, completed_at=at)
        if self._keep:
            self._keep(orjson.dumps(response), {item["id"]: orjson.dumps(item) for item in output})
        return response

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        empty = dict.fromkeys(("error", "incomplete_details", "usage", "completed_at"))
        return {**self._head, "status": status, "output": [], **empty, **more}

    def _usage(self) -> dict[str, Any]:
        record = self._record
        computed = record.prompt_tokens - record.cached_tokens  # and so written to the cache
        return {
            "input_tokens": record.prompt_tokens,
            "input_tokens_details": {"cached_tokens": record.cached_tokens, "cache_write_tokens": computed},
            "output_tokens": record.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self._items.reasoning_tokens},
            "total_tokens": record.prompt_tokens + record.completion_tokens,
        }

    def _whole_event(self, what: str, response: dict[str, Any]) -> bytes:
        return _event({"type": f"response.{what}", "sequence_number": next(self._numbers), "response": response})


def _event(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))
