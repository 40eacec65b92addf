"""Choice answers: the object around the choices of chat and plain completions, and the events of their streams.

A stream ends with ``[DONE]``; one that breaks off ends with an error object instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import orjson

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.http.request_log import RequestRecord
from quire_services.gateway.openai.branches.best_of import best
from quire_services.gateway.text.choices import Choice, Delta


class ChoiceShape(Protocol):
    """The objects of one of the two APIs."""

    prefix: str
    whole: str
    piece: str
    about_prompt: dict[str, Any]  # fields of the whole answer, or of a stream's first object

    def about_answer(self) -> dict[str, Any]:
        """Further fields of the whole answer, when that is there."""

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """The first streamed object of a choice, if there is one before its text."""

    def chunks(self, choice: Choice, delta: Delta) -> list[dict[str, Any]]:
        """The streamed choice objects that a delta becomes; none if it has nothing to say."""

    def choice(self, choice: Choice, total: Delta) -> dict[str, Any]:
        """A whole choice object."""


class ChoiceAnswer:
    """One answer.

    Args:
        shape: the API's objects.
        model: name of the model, as the client asked for it.
        record: what has been used.
        with_usage: a stream's last object says what was used.
        counted: each object of a stream says what was used so far.
        branches: choices that there are of each prompt, and how many of them, the best, are answered with.
    """

    ping = b": ping\n\n"  # a comment: clients skip it (WHATWG HTML, server-sent events)

    def __init__(
        self,
        shape: ChoiceShape,
        model: str,
        record: RequestRecord,
        with_usage: bool = False,
        counted: bool = False,
        branches: tuple[int, int] = (1, 1),
    ) -> None:
        self._shape, self._record = shape, record
        self._head = {"id": shape.prefix + record.id_suffix, "created": int(time.time()), "model": model}
        self._with_usage, self._counted, self._branches = with_usage, counted, branches
        self._first = shape.about_prompt
        self._opened: set[int] = set()

    def whole(self, answered: Sequence[tuple[Choice, Delta]]) -> dict[str, Any]:
        """The object of a whole answer."""
        objects = [self._shape.choice(choice, total) for choice, total in best(answered, *self._branches)]
        head = self._head | self._shape.about_prompt | self._shape.about_answer()
        return head | {"object": self._shape.whole, "choices": objects, "usage": self._record.usage()}

    def opening(self) -> Iterator[bytes]:
        """Nothing: what a stream begins with is said of each choice."""
        return iter(())

    def events(self, choice: Choice, delta: Delta) -> Iterator[bytes]:
        """The events of one delta, before the first of a choice the one that opens it."""
        usage: dict[str, Any] = {"usage": None} if self._with_usage else {}
        if self._counted:
            usage = {"usage": self._record.usage()}
        if choice.index not in self._opened:
            self._opened.add(choice.index)
            if opening := self._shape.opening(choice):
                yield self._event([opening], usage)
        for chunk in self._shape.chunks(choice, delta):
            yield self._event([chunk], usage)

    def ending(self) -> Iterator[bytes]:
        """The events that end a stream."""
        if self._with_usage:
            yield self._event([], {"usage": self._record.usage()})
        yield b"data: [DONE]\n\n"

    def failure(self, error: ApiError) -> bytes:
        """The event with which a stream breaks off."""
        return b"data: %b\n\n" % orjson.dumps(error.body())

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> bytes:
        chunk = self._head | self._first | {"object": self._shape.piece, "choices": choices} | usage
        self._first = {}
        return b"data: %b\n\n" % orjson.dumps(chunk)
