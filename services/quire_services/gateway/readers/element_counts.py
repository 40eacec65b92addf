"""Element counts: how many messages, items, parts, tools and prompts a body has, before an object is made of any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quire_services.gateway.http.errors import invalid

MAX_ELEMENTS = 65_536  # messages, parts of messages, tools, prompts, stop strings
_LISTS = (
    "messages", "input", "system", "tools", "documents", "stop", "stop_sequences", "stop_token_ids",
    "allowed_token_ids", "bad_words",
)  # fmt: skip


def check_elements(document: dict[str, Any]) -> None:
    """Raise ApiError for more things than ``MAX_ELEMENTS`` of any kind."""
    for name, many in _counts(document):
        if many > MAX_ELEMENTS:
            raise invalid(f"{name}: {many} are more than the {MAX_ELEMENTS} that one request may have", name)


def _counts(document: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """How many of each there are, the ids of prompts excepted: they have the model's own bound."""
    for name in _LISTS:
        if isinstance(value := document.get(name), list):
            yield name, len(value)
    for name in ("messages", "input"):
        messages = document.get(name)
        for key in ("content", "tool_calls", "output", "summary"):
            if isinstance(messages, list):
                lists = (message.get(key) for message in messages if isinstance(message, dict))
                parts = [part for value in lists if isinstance(value, list) for part in value]
                yield name, len(parts)
                inner = (part.get("content") for part in parts if isinstance(part, dict))  # of a tool's result
                yield name, sum(len(value) for value in inner if isinstance(value, list))
    prompt = document.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        yield "prompt", len(prompt)
