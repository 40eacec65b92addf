"""Events: what a piece of an answer turns out to be, in the order of the text.

Of each call a ``ToolCallBegin`` comes first, then any ``ArgumentsDelta``, then one ``ToolCallEnd``; calls do not
overlap. The deltas of a kind that follow each other may be joined: where they are cut says nothing.

``tokens`` of an event is how many tokens were generated for it, those before it that said nothing included. A parser
knows none: who feeds it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text of the answer."""

    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text that the model wrote to itself."""

    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallBegin:
    """A call of ``name``. ``id`` is empty where the model writes none."""

    index: int
    name: str
    id: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """Text of a call's arguments, JSON as far as the model wrote JSON."""

    index: int
    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The end of a call. ``complete`` is False where the answer ended inside of it."""

    index: int
    complete: bool = True
    tokens: int = 0


AnswerEvent = ContentDelta | ReasoningDelta | ToolCallBegin | ArgumentsDelta | ToolCallEnd


def joined(events: Sequence[AnswerEvent]) -> list[AnswerEvent]:
    """The same events with neighbouring deltas of a kind in one."""
    out: list[AnswerEvent] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, ArgumentsDelta) and isinstance(last, ArgumentsDelta) and last.index == event.index:
            out[-1] = ArgumentsDelta(event.index, last.text + event.text, last.tokens + event.tokens)
        elif isinstance(event, ContentDelta) and isinstance(last, ContentDelta):
            out[-1] = ContentDelta(last.text + event.text, last.tokens + event.tokens)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            out[-1] = ReasoningDelta(last.text + event.text, last.tokens + event.tokens)
        else:
            out.append(event)
    return out
