"""Tagged values: an argument that stands between tags, as it is if it is a string, else as JSON.

A string goes out as it comes: models write whole files so. All others wait for the closing tag, because what they are
is decided on the whole.
"""

from __future__ import annotations

from collections.abc import Callable

from quire_services.gateway.tools.formats.tool_format import TaggedCall

from . import json_values
from .parameter_types import Leaf, is_text, text_as_json
from .text_source import Reading, TextSource, pending


class TaggedValue:
    """One argument.

    Args:
        allowed: what it may be.
    """

    def __init__(self, source: TextSource, body: TaggedCall, allowed: list[Leaf]) -> None:
        self._source = source
        self._allowed = allowed
        self._close = body.value_close.strip()
        self._breaks = (body.key_close.endswith("\n"), body.value_close.startswith("\n"))  # that set the value apart

    def read(self, emit: Callable[[str], None]) -> Reading[bool]:
        """Read the value and its closing tag and give ``emit`` its JSON. False if the answer ends before the tag."""
        if self._breaks[0]:
            yield from self._source.word("\n")
        if len(self._allowed) != 1 or self._allowed[0].get("type") != "string" or not is_text(self._allowed[0]):
            return (yield from self._whole(emit))
        emit('"')
        closed = yield from self._text(lambda text: emit(json_values.escaped(text)))
        if closed:
            emit('"')
        return closed

    def _whole(self, emit: Callable[[str], None]) -> Reading[bool]:
        """A value that its schema may turn into something else than a string."""
        parts: list[str] = []
        if not any(map(is_text, self._allowed)):
            yield from self._source.skip_space()
            if (yield from self._source.peek()) in ("{", "["):
                yield from json_values.bracketed(self._source, parts.append, "\"'")  # a tag in it does not end it
        closed = yield from self._text(parts.append)
        emit(text_as_json("".join(parts), self._allowed))
        return closed

    def _text(self, emit: Callable[[str], None]) -> Reading[bool]:
        """The text up to the closing tag, which is read, too."""
        source = self._source
        words = (f"\n{self._close}", self._close) if self._breaks[1] else (self._close,)
        while True:
            found = source.text.find(self._close, source.at)
            if found >= 0:
                end = found - 1 if self._breaks[1] and source.text[source.at : found].endswith("\n") else found
                emit(source.text[source.at : end])
                source.at = found + len(self._close)
                return True
            end = len(source.text) if source.ended else pending(source.text, source.at, words)
            emit(source.text[source.at : end])
            source.at = end
            if not (yield from source.more()):
                return False
