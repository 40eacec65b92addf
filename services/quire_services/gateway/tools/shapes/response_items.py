"""Response items: events of an answer as the items and the stream of ``/v1/responses``.

Only what concerns the answer is made here: the events that a response has begun and ended are around it. An answer in
which nothing was said is a message without text, as clients expect one.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from quire_services.gateway.tools.parser.events import AnswerEvent, ContentDelta

from .answer_parts import AnswerPart, AnswerParts, PartStep
from .chat_messages import new_call_id

MESSAGE_ID, REASONING_ID, CALL_ID = "msg", "rs", "fc"  # what ids of items begin with
_PREFIXES = {"content": MESSAGE_ID, "reasoning": REASONING_ID, "call": CALL_ID}
_TEXTS = {"content": "output_text", "reasoning": "reasoning_text", "call": "function_call_arguments"}


def new_item_id() -> str:
    """What makes an item's id unique."""
    return uuid.uuid4().hex


class ResponseItems:
    """The output of one response.

    Args:
        number: the next sequence number of the stream.
        new_id: the rest of an item's id.
        new_call_id: ids for calls of models that write none.
        sealed: text of reasoning as ``encrypted_content``, if that is wanted.

    Attributes:
        reasoning_tokens: tokens that reasoning took.
    """

    def __init__(
        self,
        number: Callable[[], int],
        new_id: Callable[[], str] = new_item_id,
        new_call_id: Callable[[], str] = new_call_id,
        sealed: Callable[[str], str] | None = None,
    ) -> None:
        self._number = number
        self._new_id, self._new_call_id = new_id, new_call_id
        self._sealed = sealed
        self._parts = AnswerParts()
        self._ids: dict[int, str] = {}
        self._logprobs: dict[int, list[dict[str, Any]]] = {}  # of the parts that are content
        self._ahead: deque[dict[str, Any]] = deque()  # log-probabilities of tokens that no event has counted yet
        self.reasoning_tokens = 0

    def events(self, events: Iterable[AnswerEvent], logprobs: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """The events of the stream that these become; ``logprobs`` of the tokens that have come with them."""
        self._ahead.extend(logprobs)
        return self._stream(self._parts.steps(events))

    def finish(self, cut: bool = False) -> list[dict[str, Any]]:
        """The events of the stream at the answer's end. ``cut``: it has no end of its own."""
        steps = [] if self._parts.parts else self._parts.steps([ContentDelta("")])
        return self._stream([*steps, *self._parts.finish(cut)])

    def output(self) -> list[dict[str, Any]]:
        """All items so far, as the whole response has them."""
        return [self._item(part, "completed" if part.complete else "incomplete") for part in self._parts.parts]

    def _stream(self, steps: list[PartStep]) -> list[dict[str, Any]]:
        made = [event for step in steps for event in self._made(step)]
        return [{**event, "sequence_number": self._number()} for event in made]

    def _made(self, step: PartStep) -> list[dict[str, Any]]:
        part, kind = step.part, step.part.kind
        logprobs = self._counted(step)
        if step.what == "open":
            self._ids[part.index] = f"{_PREFIXES[kind]}_{self._new_id()}"
            part.id = part.id or (self._new_call_id() if kind == "call" else "")
            added = {"type": "response.output_item.added", "output_index": part.index}
            return [{**added, "item": self._item(part, "in_progress")}, *self._part_event(part, "added", "")]
        where: dict[str, Any] = {"item_id": self._ids[part.index], "output_index": part.index}
        if kind != "call":
            where["content_index"] = 0
        if step.what == "grow":
            told = {"logprobs": logprobs} if kind == "content" else {}
            return (
                [{"type": f"response.{_TEXTS[kind]}.delta", **where, **told, "delta": step.text}] if step.text else []
            )
        if kind == "content":
            where["logprobs"] = self._logprobs.get(part.index, [])
        said = {"arguments": part.text, "name": part.name} if kind == "call" else {"text": part.text}
        status = "completed" if part.complete else "incomplete"
        return [
            {"type": f"response.{_TEXTS[kind]}.done", **where, **said},
            *self._part_event(part, "done", part.text),
            {"type": "response.output_item.done", "output_index": part.index, "item": self._item(part, status)},
        ]

    def _counted(self, step: PartStep) -> list[dict[str, Any]]:
        """The log-probabilities of the tokens of a step, kept if its part is content."""
        found = [self._ahead.popleft() for _ in range(min(step.tokens, len(self._ahead)))]
        if step.part.kind == "content" and found:
            self._logprobs.setdefault(step.part.index, []).extend(found)
        elif step.part.kind == "reasoning":
            self.reasoning_tokens += step.tokens
        return found

    def _part_event(self, part: AnswerPart, what: str, text: str) -> list[dict[str, Any]]:
        if part.kind == "call":
            return []
        where = {"item_id": self._ids[part.index], "output_index": part.index, "content_index": 0}
        return [{"type": f"response.content_part.{what}", **where, "part": self._content(part, text)}]

    def _item(self, part: AnswerPart, status: str) -> dict[str, Any]:
        begun = status == "in_progress"
        out: dict[str, Any] = {"id": self._ids[part.index], "status": status}
        if part.kind == "call":
            arguments = "" if begun else part.text
            return {**out, "type": "function_call", "call_id": part.id, "name": part.name, "arguments": arguments}
        content = [] if begun else [self._content(part, part.text)]
        if part.kind == "reasoning":
            sealed = {"encrypted_content": self._sealed(part.text)} if self._sealed and not begun else {}
            return {**out, "type": "reasoning", "summary": [], "content": content, **sealed}
        return {**out, "type": "message", "role": "assistant", "content": content}

    def _content(self, part: AnswerPart, text: str) -> dict[str, Any]:
        if part.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        logprobs = self._logprobs.get(part.index, []) if text else []
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
