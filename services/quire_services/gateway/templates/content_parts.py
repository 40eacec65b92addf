"""Content of messages as text: a string, or a list of parts.

A part is a string, or an object with a ``type`` and the text in the field that goes with it. The names of the Responses
API and the parts of an assistant's earlier answers are the same text: clients send histories back as they got them.
Parts that are no text are refused by name: a model that never sees an image must not answer as if it had.
"""

from __future__ import annotations

from typing import Any

from quire_services.gateway.http.errors import ApiError, invalid

# Type of a part -> the field that holds its text.
TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "reasoning": "reasoning",
}


def text_of(content: Any, where: str) -> str:
    """The text of a message's content, parts on lines of their own. ``where`` is the message's place in the body.
    Raises ApiError 400."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(_text(part, f"{where}.content", place) for place, part in enumerate(content))


def _text(part: Any, where: str, place: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type")
    field = TEXTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise _refused(f"only text is supported; {where}[{place}] is a part of type {_short(kind)}", where)
    text = part.get(field)
    if not isinstance(text, str):
        raise _refused(f"{where}[{place}] is a part of type {kind!r} and has no string as {field!r}", where)
    return text


def _refused(message: str, where: str) -> ApiError:
    return invalid(message, where, "unsupported_content")


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | None) and len(repr(value)) <= 40 else "(unreadable)"
