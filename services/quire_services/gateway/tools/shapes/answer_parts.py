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
    """What happens to a part; ``text`` is what it grows by."""

    what: Literal["open", "grow", "close"]
    part: AnswerPart
    text: str = ""


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

    def finish(self) -> list[PartStep]:
        """The steps at the answer's end."""
        closed, self._open = self._open, None
        return [PartStep("close", closed)] if closed else []

    def _steps(self, event: AnswerEvent) -> list[PartStep]:
        match event:
            case ContentDelta():
                return [*self._run("content"), self._grow(event.text)]
            case ReasoningDelta():
                return [*self._run("reasoning"), self._grow(event.text)]
            case ToolCallBegin():
                return [*self.finish(), self._opened(AnswerPart("call", len(self.parts), event.name, event.id))]
            case ArgumentsDelta():
                return [self._grow(event.text)]
            case ToolCallEnd():
                if self._open:
                    self._open.complete = event.complete
                return self.finish()

    def _run(self, kind: Literal["content", "reasoning"]) -> list[PartStep]:
        if self._open and self._open.kind == kind:
            return []
        return [*self.finish(), self._opened(AnswerPart(kind, len(self.parts)))]

    def _opened(self, part: AnswerPart) -> PartStep:
        self.parts.append(part)
        self._open = part
        return PartStep("open", part)

    def _grow(self, text: str) -> PartStep:
        part = self.parts[-1]
        part.text += text
        return PartStep("grow", part, text)
