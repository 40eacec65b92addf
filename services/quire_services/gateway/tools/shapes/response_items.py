"""Response items: events of an answer as the items and the stream of ``/v1/responses``.

Only what concerns the answer is made here: the events that a response has begun and ended are around it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from quire_services.gateway.tools.parser.events import AnswerEvent

from .answer_parts import AnswerPart, AnswerParts, PartStep
from .chat_messages import new_call_id

_PREFIXES = {"content": "msg", "reasoning": "rs", "call": "fc"}
_TEXTS = {"content": "output_text", "reasoning": "reasoning_text", "call": "function_call_arguments"}


class ResponseItems:
    """The output of one response.

    Args:
        number: the next sequence number of the stream.
        new_id: the rest of an item's id.
        new_call_id: ids for calls of models that write none.
    """

    def __init__(
        self,
        number: Callable[[], int],
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        new_call_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._number = number
        self._new_id = new_id
        self._new_call_id = new_call_id
        self._parts = AnswerParts()
        self._ids: dict[int, str] = {}

    def events(self, events: Iterable[AnswerEvent]) -> list[dict[str, Any]]:
        """The events of the stream that these become."""
        return self._stream(self._parts.steps(events))

    def finish(self) -> list[dict[str, Any]]:
        """The events of the stream at the answer's end."""
        return self._stream(self._parts.finish())

    def output(self, cut: bool = False) -> list[dict[str, Any]]:
        """All items so far, as the whole response has them. ``cut``: the answer was cut, and its last item with it."""
        last = len(self._parts.parts) - 1
        return [
            self._item(part, "completed" if part.complete and not (cut and part.index == last) else "incomplete")
            for part in self._parts.parts
        ]

    def _stream(self, steps: list[PartStep]) -> list[dict[str, Any]]:
        made = [event for step in steps for event in self._made(step)]
        return [{**event, "sequence_number": self._number()} for event in made]

    def _made(self, step: PartStep) -> list[dict[str, Any]]:
        part, kind = step.part, step.part.kind
        if step.what == "open":
            self._ids[part.index] = f"{_PREFIXES[kind]}_{self._new_id()}"
            part.id = part.id or (self._new_call_id() if kind == "call" else "")
            added = {"type": "response.output_item.added", "output_index": part.index}
            return [{**added, "item": self._item(part, "in_progress")}, *self._part_event(part, "added", "")]
        where: dict[str, Any] = {"item_id": self._ids[part.index], "output_index": part.index}
        if kind != "call":
            where["content_index"] = 0
        if kind == "content":
            where["logprobs"] = []
        if step.what == "grow":
            return [{"type": f"response.{_TEXTS[kind]}.delta", **where, "delta": step.text}]
        said = {"arguments": part.text, "name": part.name} if kind == "call" else {"text": part.text}
        status = "completed" if part.complete else "incomplete"
        return [
            {"type": f"response.{_TEXTS[kind]}.done", **where, **said},
            *self._part_event(part, "done", part.text),
            {"type": "response.output_item.done", "output_index": part.index, "item": self._item(part, status)},
        ]

    def _part_event(self, part: AnswerPart, what: str, text: str) -> list[dict[str, Any]]:
        if part.kind == "call":
            return []
        where = {"item_id": self._ids[part.index], "output_index": part.index, "content_index": 0}
        return [{"type": f"response.content_part.{what}", **where, "part": _content(part, text)}]

    def _item(self, part: AnswerPart, status: str) -> dict[str, Any]:
        begun = status == "in_progress"
        out: dict[str, Any] = {"id": self._ids[part.index], "status": status}
        if part.kind == "call":
            arguments = "" if begun else part.text
            return {**out, "type": "function_call", "call_id": part.id, "name": part.name, "arguments": arguments}
        content = [] if begun else [_content(part, part.text)]
        if part.kind == "reasoning":
            return {**out, "type": "reasoning", "summary": [], "content": content}
        return {**out, "type": "message", "role": "assistant", "content": content}


def _content(part: AnswerPart, text: str) -> dict[str, Any]:
    if part.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
