"""Request fields: which field of a chat request a place in its prompt comes from, as far as that can be told.

A template is a program, so its text says nothing of where it has a word from. So the request is rendered a second time
with words of ours in place of its values, and the two texts are walked side by side: what stands between our words is
the template's, what stands in their places are the values.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.chat import ChatPrompt
from quire_services.gateway.templates.chat_template import PromptEncoder

_WORD = "q" + secrets.token_hex(6)
_PLACE = re.compile(rf'("?){_WORD}x(\d+)x"?')
_READ_BY_TEMPLATES = {"type", "role"}  # some write other things for other values of these
_TRIED_CHARS = 24  # of the template's text behind a value


def field_at(encoder: PromptEncoder, prompt: ChatPrompt, before: str) -> str | None:
    """The field whose value goes on behind so much of a request's text, or comes next; None if it cannot be told."""
    shown = ChatPrompt(prompt.messages, encoder.shown_tools(prompt.tools), prompt.options)
    try:
        text = encoder.render(shown.messages, shown.tools, shown.options)
        if not text.startswith(before):  # its tokens spell it otherwise
            return None
        for kept in (frozenset[str](), frozenset(_READ_BY_TEMPLATES)):
            values: list[tuple[str, Any]] = []
            marked = _marked_prompt(shown, values, kept)
            found = _walked(text, encoder.render(marked.messages, marked.tools, marked.options), values, len(before))
            if found:
                return found
    except (ApiError, RecursionError):  # a template that looks at the values takes none of ours
        pass
    return None


def _marked_prompt(prompt: ChatPrompt, values: list[tuple[str, Any]], kept: frozenset[str]) -> ChatPrompt:
    """The prompt with a word of ours for each value of its tools and messages; ``values`` gets their paths."""

    def mark(path: str, value: Any) -> str:
        values.append((path, value))
        return f"{_WORD}x{len(values) - 1}x"

    tools = (
        None
        if prompt.tools is None
        else [_marked(one, f"tools[{i}]", mark, kept) for i, one in enumerate(prompt.tools)]
    )
    messages = [
        {**one, "content": mark(f"messages[{number}].content", one["content"])} if _is_plain(one) else one
        for number, one in enumerate(prompt.messages)
    ]
    return ChatPrompt(messages, tools, prompt.options)


def _is_plain(message: dict[str, Any]) -> bool:
    return isinstance(message.get("content"), str) and message["role"] != "tool" and "tool_calls" not in message


def _marked(value: Any, path: str, mark: Callable[[str, Any], str], kept: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: one if key in kept and not isinstance(one, dict) else _marked(one, f"{path}.{key}", mark, kept)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_marked(one, f"{path}[{place}]", mark, kept) for place, one in enumerate(value)]
    return mark(path, value)


def _walked(text: str, marked: str, values: list[tuple[str, Any]], place: int) -> str | None:
    """The path of the value at ``place`` of the text, or of the next one; None where the texts do not go together."""
    at, end = 0, 0
    found = list(_PLACE.finditer(marked))
    for number, one in enumerate(found):
        own = marked[end : one.start()]
        path, value = values[int(one[2])]
        if not text.startswith(own, at):
            return None
        at += len(own)
        end = one.end()
        behind = marked[end : found[number + 1].start() if number + 1 < len(found) else len(marked)]
        ends = (at + len(said) for said in _spellings(value) if text.startswith(said, at))
        at = next((stop for stop in ends if text.startswith(behind[:_TRIED_CHARS], stop)), -1)
        if at < 0:
            return None
        if place < at:
            return path
    return None


def _spellings(value: Any) -> Iterator[str]:
    """How templates write a value."""
    yield json.dumps(value, ensure_ascii=False)
    yield json.dumps(value)
    if isinstance(value, str):
        yield value
        yield value.strip()
    else:
        yield str(value)
