"""Answer parts: events as parts that open, grow and close, for the APIs whose streams are lists of items.

A part is a run of content, a run of reasoning, or a call. They do not overlap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from quire_services.gateway.tools.parser.events import (
    AnswerEvent,
    ArgumentsDelta,
    ContentDelta,
    ReasoningDelta,
    ToolCallBegin,
    ToolCallEnd,
    joined,
)


@dataclass(slots=True)
class AnswerPart:
    """One part.

    Attributes:
        kind: what it is.
        index: its place in the answer.
        name, id: of a call.
        text: what there is of it: the arguments of a call.
        complete: it is whole. (A call that the answer's end cuts is not.)
    """

    kind: Literal["content", "reasoning", "call"]
    index: int
    name: str = ""
    id: str = ""
    text: str = ""
    complete: bool = True


@dataclass(frozen=True, slots=True)
class PartStep:
    """What happens to a part; ``text`` is what it grows by, ``tokens`` how many were generated for this step."""

    what: Literal["open", "grow", "close"]
    part: AnswerPart
    text: str = ""
    tokens: int = 0


class AnswerParts:
    """The parts of one answer.

    Attributes:
        parts: those that have opened, in order.
    """

    def __init__(self) -> None:
        self.parts: list[AnswerPart] = []
        self._open: AnswerPart | None = None

    def steps(self, events: Iterable[AnswerEvent]) -> list[PartStep]:
        """The steps that these events are."""
        return [step for event in joined(list(events)) for step in self._steps(event)]

    def finish(self, cut: bool = False) -> list[PartStep]:
        """The steps at the answer's end. ``cut``: it ends inside of the part that is open, if one is."""
        return self._closed(complete=not cut)

    def _steps(self, event: AnswerEvent) -> list[PartStep]:
        match event:
            case ContentDelta():
                return [*self._run("content"), self._grow(event.text, event.tokens)]
            case ReasoningDelta():
                return [*self._run("reasoning"), self._grow(event.text, event.tokens)]
            case ToolCallBegin():
                call = AnswerPart("call", len(self.parts), event.name, event.id)
                return [*self._closed(), self._opened(call, event.tokens)]
            case ArgumentsDelta():
                return [self._grow(event.text, event.tokens)]
            case ToolCallEnd():
                return self._closed(event.tokens, event.complete)

    def _run(self, kind: Literal["content", "reasoning"]) -> list[PartStep]:
        if self._open and self._open.kind == kind:
            return []
        return [*self._closed(), self._opened(AnswerPart(kind, len(self.parts)))]

    def _opened(self, part: AnswerPart, tokens: int = 0) -> PartStep:
        self.parts.append(part)
        self._open = part
        return PartStep("open", part, tokens=tokens)

    def _grow(self, text: str, tokens: int) -> PartStep:
        part = self.parts[-1]
        part.text += text
        return PartStep("grow", part, text, tokens)

    def _closed(self, tokens: int = 0, complete: bool = True) -> list[PartStep]:
        closed, self._open = self._open, None
        if closed is None:
            return []
        closed.complete = complete
        return [PartStep("close", closed, tokens=tokens)]
