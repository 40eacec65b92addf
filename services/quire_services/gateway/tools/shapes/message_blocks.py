"""Message blocks: events of an answer as the content blocks and the stream of Anthropic's ``/v1/messages``.

Only what concerns the answer is made here: the events that a message has begun and ended are around it.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic_core import from_json

from quire_services.gateway.tools.parser.events import AnswerEvent, ReasoningDelta

from .answer_parts import AnswerPart, AnswerParts, PartStep

_DELTAS = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}
_STOPS = {"length": "max_tokens", "stop": "end_turn"}


def new_tool_use_id() -> str:
    """An id for a call of a model that writes none."""
    return f"toolu_{uuid.uuid4().hex[:24]}"


class MessageBlocks:
    """The content of one message.

    Args:
        thinking: what is shown of reasoning: its text, blocks without it, or no blocks.
        new_id: ids for calls.
    """

    def __init__(
        self,
        thinking: Literal["whole", "omitted", "none"] = "whole",
        new_id: Callable[[], str] = new_tool_use_id,
    ) -> None:
        self._thinking = thinking
        self._new_id = new_id
        self._parts = AnswerParts()

    def events(self, events: Iterable[AnswerEvent]) -> list[dict[str, Any]]:
        """The events of the stream that these become."""
        if self._thinking == "none":
            events = [event for event in events if not isinstance(event, ReasoningDelta)]
        return [made for step in self._parts.steps(events) for made in self._made(step)]

    def finish(self) -> list[dict[str, Any]]:
        """The events of the stream at the answer's end."""
        return [made for step in self._parts.finish() for made in self._made(step)]

    def content(self) -> list[dict[str, Any]]:
        """All blocks so far, as the whole message has them."""
        return [self._block(part, part.text) for part in self._parts.parts]

    def stop_reason(self, finish: str, stop_string: bool = False) -> str:
        """Why the message has ended, in the words of this API."""
        if stop_string:
            return "stop_sequence"
        called = any(part.kind == "call" for part in self._parts.parts)
        return "tool_use" if called and finish == "stop" else _STOPS.get(finish, finish)

    def _made(self, step: PartStep) -> list[dict[str, Any]]:
        part = step.part
        if step.what == "open":
            if part.kind == "call":
                part.id = part.id or self._new_id()
            return [{"type": "content_block_start", "index": part.index, "content_block": self._block(part, "")}]
        if step.what == "close":
            signed = [_delta(part, "signature_delta", "signature", _signature(part.text))]
            closed = {"type": "content_block_stop", "index": part.index}
            return [*(signed if part.kind == "reasoning" else ()), closed]
        if part.kind == "reasoning" and self._thinking == "omitted":
            return []
        return [_delta(part, *_DELTAS[part.kind], step.text)]

    def _block(self, part: AnswerPart, text: str) -> dict[str, Any]:
        if part.kind == "content":
            return {"type": "text", "text": text}
        if part.kind == "reasoning":
            shown = "" if self._thinking == "omitted" else text
            return {"type": "thinking", "thinking": shown, "signature": _signature(text) if text else ""}
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(text)}


def _delta(part: AnswerPart, kind: str, key: str, text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": part.index, "delta": {"type": kind, key: text}}


def _signature(thinking: str) -> str:
    """What clients keep beside reasoning and send back with it; some leave out what has none. Nothing here asks for it:
    a conversation is its client's own."""
    return hashlib.sha256(thinking.encode(errors="surrogatepass")).hexdigest()


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object, of a call that was cut off as much as there is; text that is none stands under a key of
    its own, so that the client sees it."""
    try:
        found = from_json(arguments or "{}", allow_partial=True)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}
