"""A tracer that keeps what it is told, for tests of those who tell it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from quire_proto.spans import INTERNAL, NO_ATTRIBUTES, SERVER, Attributes

_numbers = count(1)


@dataclass
class RecordedSpan:
    """A span."""

    name: str
    kind: str
    parent: str
    attributes: dict[str, Any]
    all: list[RecordedSpan] = field(repr=False)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ends: int = 0
    error: str = ""
    at: list[float | None] = field(default_factory=list)
    context: str = field(default_factory=lambda: f"span-{next(_numbers)}")

    def __post_init__(self) -> None:
        self.all.append(self)

    def child(
        self, name: str, kind: str = INTERNAL, attributes: Attributes = NO_ATTRIBUTES, at: float | None = None
    ) -> RecordedSpan:
        return RecordedSpan(name, kind, self.context, dict(attributes), self.all, at=[at])

    def rename(self, name: str) -> None:
        self.name = name

    def event(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        self.events.append((name, dict(attributes)))

    def end(self, attributes: Attributes = NO_ATTRIBUTES, error: str = "", at: float | None = None) -> None:
        self.attributes |= attributes
        self.error = error
        self.at.append(at)
        self.ends += 1


@dataclass
class RecordedSpans:
    """The tracer. A context that begins with ``x`` is one that is not traced."""

    spans: list[RecordedSpan] = field(default_factory=list)

    def join(
        self, context: str, name: str, attributes: Attributes = NO_ATTRIBUTES, at: float | None = None
    ) -> RecordedSpan | None:
        if context.startswith("x"):
            return None
        return RecordedSpan(name, SERVER, context, dict(attributes), self.spans, at=[at])

    def named(self, name: str) -> list[RecordedSpan]:
        """The spans of this name."""
        return [one for one in self.spans if one.name == name]
