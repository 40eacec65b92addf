"""How long a client waits for an answer to begin, if its request says so: OpenAI's own clients do, in a header."""

from __future__ import annotations

import math

from starlette.datastructures import Headers

HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")  # of openai for Python and for JavaScript, in seconds
IN_TIME = 0.9  # of it, so that what it is told then still reaches it


def client_timeout_s(headers: Headers) -> float:
    """Seconds in which an answer that is to reach the client must begin; infinite if it says nothing."""
    said = [_seconds(headers[name]) for name in HEADERS if name in headers]
    return IN_TIME * min(said, default=math.inf)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf  # "nan" is no number of seconds either
