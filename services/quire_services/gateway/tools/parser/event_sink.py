"""Event sink: collects the events of an answer and gives texts the form that clients see.

Whitespace that only sets marked text apart is left out: around reasoning, before calls and after them. So the
whitespace at the end of a text waits until it is clear what comes behind it. Texts of a kind that marked things have
set apart come out on lines of their own.
"""

from __future__ import annotations

from typing import Literal

from .events import AnswerEvent, ArgumentsDelta, ContentDelta, ReasoningDelta, ToolCallBegin, ToolCallEnd, joined
from .marks import Marks
from .text_source import SPACE

Kind = Literal["content", "reasoning"]


class EventSink:
    """Where readers put what they find.

    Args:
        marks: of the format.
        mute: no text is content.

    Attributes:
        events: those that are not yet taken.
        fresh: a message begins here.
    """

    def __init__(self, marks: Marks, mute: bool = False) -> None:
        self.events: list[AnswerEvent] = []
        self.fresh = True
        self._marks = marks
        self._mute = mute
        self._index = -1
        self._space = ""  # whitespace that waits
        self._leading = False  # whitespace here sets marked text apart
        self._said: set[Kind] = set()

    def take(self) -> list[AnswerEvent]:
        """The events since the last time."""
        taken, self.events = self.events, []
        return joined(taken) if len(taken) > 1 else taken

    def text(self, kind: Kind, text: str) -> None:
        """Text of the answer or of its reasoning."""
        if self._leading:
            text = text.lstrip(SPACE)
        if not text:
            return
        if self._leading and kind in self._said:
            text = f"\n{text}"
        self._leading = False
        shown = (self._space + text).rstrip(SPACE)
        self._space = (self._space + text)[len(shown) :]
        if shown:
            self.fresh = False
            self._said.add(kind)
            self._add(kind, shown)

    def apart(self) -> None:
        """A marked thing begins or ends: whitespace on both sides only sets it apart."""
        self._space, self._leading = "", True

    def begin(self, name: str, identity: str = "") -> None:
        """A call begins."""
        self.apart()
        self.fresh = False
        self._index += 1
        self.events.append(ToolCallBegin(self._index, name, self._marks.spelled(identity)))

    def arguments(self, text: str) -> None:
        """Text of the arguments of the call that has begun."""
        if text:
            self.events.append(ArgumentsDelta(self._index, self._marks.spelled(text)))

    def end(self, complete: bool) -> None:
        """The call ends."""
        self.events.append(ToolCallEnd(self._index, complete))

    def finish(self) -> None:
        """The answer ends: whitespace that waited is part of it."""
        if self._space:
            self._add("content", self._space)

    def _add(self, kind: Kind, text: str) -> None:
        if self._mute and kind == "content":
            return
        spelled = self._marks.spelled(text)
        self.events.append(ContentDelta(spelled) if kind == "content" else ReasoningDelta(spelled))
