"""JSON values in a text source: where they end, and what they say, also while they are still being written.

Values are read as models write them: brackets and strings must match, nothing else is checked, because what cannot be
parsed is the client's to see and not ours to lose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from .text_source import Reading, TextSource

_MARKS = "\ufdd0-\ufdef"  # of special tokens: no part of any value
_OUTSIDE = re.compile(rf"""["'{{}}\[\]{_MARKS}]""")
_INSIDE = re.compile(rf"""["'\\{_MARKS}]""")
_SCALAR_ENDS = ",]}"
_LONGEST_SCALAR = 400


def bracketed(source: TextSource, emit: Callable[[str], None], quotes: str = '"') -> Reading[bool]:
    """Read an object or an array, from its bracket to the one that closes it, giving its text to ``emit`` as it comes.
    False if it does not end: at the end of the answer, and before a special token."""
    depth, quote, escaped = 0, "", False
    while True:
        begin, text = source.at, source.text
        at = begin
        while at < len(text):
            if escaped:
                escaped = False
                at += 1
                continue
            found = (_INSIDE if quote else _OUTSIDE).search(text, at)
            if not found:
                at = len(text)
                break
            character = found[0]
            if "\ufdd0" <= character <= "\ufdef":
                source.at = found.start()
                emit(text[begin : source.at])
                return False
            at = found.end()
            if character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
            elif not quote and character in quotes:
                quote = character
            elif not quote and character in "{}[]":
                depth += 1 if character in "{[" else -1
                if not depth:
                    break
        source.at = at
        if at > begin:
            emit(text[begin:at])
        if at > begin and not depth:
            return True
        if not (yield from source.more()):
            return False


def string(source: TextSource) -> Reading[str | None]:
    """Read a string and return what it says; None if there is none."""
    if (yield from source.peek()) != '"':
        return None
    written, begin, held = '"', source.at, source.held
    source.held = True
    source.at += 1
    try:
        while (character := (yield from source.peek())) != '"':
            if not character:
                source.at = begin
                return None
            step = 2 if character == "\\" else 1
            if step == 2:
                source.at += 1
                if not (yield from source.peek()):
                    source.at = begin
                    return None
                source.at -= 1
            written += source.text[source.at : source.at + step]
            source.at += step
        source.at += 1
    finally:
        source.held = held
    return loaded_string(written + '"')


def loaded_string(written: str) -> str | None:
    """What a JSON string says, with control characters in it or not; None if it is not valid."""
    try:
        value = json.loads(written, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def value(source: TextSource) -> Reading[str | None]:
    """Read any value and return its text; None if the answer ends inside of it."""
    first = yield from source.peek()
    if first in ("{", "["):
        parts: list[str] = []
        whole = yield from bracketed(source, parts.append)
        return "".join(parts) if whole else None
    if first == '"':
        text = yield from string(source)
        return None if text is None else json.dumps(text, ensure_ascii=False)
    scalar = yield from source.run(_SCALAR_ENDS, _LONGEST_SCALAR)
    return scalar or None


def escaped(text: str) -> str:
    """A piece of text as it stands inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def object_text(text: str) -> str | None:
    """The text of an object that a value is, or that it says as a string; null is an empty one. None if it is none."""
    inner = loaded_string(text) if text.startswith('"') else text
    if inner is not None and inner.strip() in ("null", ""):
        return "{}" if text else None
    return inner if inner is not None and inner.lstrip().startswith("{") else None
