"""Message blocks: events of an answer as the content blocks and the stream of Anthropic's ``/v1/messages``.

Only what concerns the answer is made here: the events that a message has begun and ended are around it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from quire_services.gateway.tools.parser.events import AnswerEvent

from .answer_parts import AnswerPart, AnswerParts, PartStep

_DELTAS = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}
_STOPS = {"length": "max_tokens", "stop": "end_turn"}


class MessageBlocks:
    """The content of one message.

    Args:
        new_id: ids for calls.
    """

    def __init__(self, new_id: Callable[[], str] = lambda: f"toolu_{uuid.uuid4().hex[:24]}") -> None:
        self._new_id = new_id
        self._parts = AnswerParts()

    def events(self, events: Iterable[AnswerEvent]) -> list[dict[str, Any]]:
        """The events of the stream that these become."""
        return [self._event(step) for step in self._parts.steps(events)]

    def finish(self) -> list[dict[str, Any]]:
        """The events of the stream at the answer's end."""
        return [self._event(step) for step in self._parts.finish()]

    def content(self) -> list[dict[str, Any]]:
        """All blocks so far, as the whole message has them."""
        return [_block(part, part.text) for part in self._parts.parts]

    def stop_reason(self, finish: str, stop_string: bool = False) -> str:
        """Why the message has ended, in the words of this API."""
        if stop_string:
            return "stop_sequence"
        called = any(part.kind == "call" for part in self._parts.parts)
        return "tool_use" if called and finish == "stop" else _STOPS.get(finish, finish)

    def _event(self, step: PartStep) -> dict[str, Any]:
        part = step.part
        if step.what == "open":
            if part.kind == "call":
                part.id = part.id or self._new_id()
            return {"type": "content_block_start", "index": part.index, "content_block": _block(part, "")}
        if step.what == "close":
            return {"type": "content_block_stop", "index": part.index}
        kind, key = _DELTAS[part.kind]
        return {"type": "content_block_delta", "index": part.index, "delta": {"type": kind, key: step.text}}


def _block(part: AnswerPart, text: str) -> dict[str, Any]:
    if part.kind == "content":
        return {"type": "text", "text": text}
    if part.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(text)}


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object; text that is none stands under a key of its own, so that the client sees it."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}
