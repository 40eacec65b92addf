"""Own words: what is wrong with a chat, said of the request that the chat was made from.

Other APIs' requests become chats, and what checks those speaks of the chat's fields and of its messages by number. A
client has sent other fields, and what it sent may stand elsewhere: a system prompt becomes a message before all others,
several items or blocks become one message with calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quire_services.gateway.http.errors import ApiError

Word = tuple[re.Pattern[str], str]
_MESSAGE = re.compile(r"\bmessages\[(\d{1,6})\](?:\.tool_calls\[(\d{1,6})\](?:\.function\b)?)?")


@dataclass(slots=True)
class MessagePlace:
    """Where in its client's body a message of the chat comes from, and where each of its calls."""

    message: str
    calls: list[str] = field(default_factory=list)


def field_word(theirs: str, ours: str) -> Word:
    """What a field of chats (a regular expression) is called elsewhere, where it begins a sentence or stands in quotes:
    there it is no word of a client's."""
    return re.compile(rf"(?:^|(?<='))(?:{theirs})\b"), ours


def placed(error: ApiError, places: Sequence[MessagePlace]) -> ApiError:
    """The error with each message of the chat where it comes from."""

    def place(found: re.Match[str]) -> str:
        try:
            of = places[int(found[1])]
            return of.calls[int(found[2])] if found[2] else of.message
        except IndexError:  # a client's own words
            return found[0]

    return _said(error, lambda text: _MESSAGE.sub(place, text))


def worded(error: ApiError, words: Sequence[Word]) -> ApiError:
    """The error with these words for the chat's."""

    def own(text: str) -> str:
        for theirs, ours in words:
            text = theirs.sub(ours, text)
        return text

    return _said(error, own)


def _said(error: ApiError, own: Callable[[str], str]) -> ApiError:
    error.message = own(error.message)
    if error.param:
        error.param = own(error.param)
    return error
