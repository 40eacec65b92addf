"""Lost turns: whether a chat template leaves out tools, documents, tool calls or answers of a conversation.

A template that leaves a call out says nothing, and the model answers as if it had called nothing. The text itself
cannot tell: a name may be in it because a message mentions it. So the conversation is rendered a second time with words
in place of names, arguments and answers that occur nowhere else, and each of these words must appear. Chats without any
of these are rendered once.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from .tool_turns import TOOL_ROLES, TemplateMessage

RenderWithDocuments = Callable[[list[TemplateMessage], list[Any] | None, Any], str]

_WORD = "q" + secrets.token_hex(6)


def lost_path(
    messages: Sequence[TemplateMessage], tools: Sequence[Any] | None, documents: Any, render: RenderWithDocuments
) -> str | None:
    """The first tool, document, call or answer that ``render`` leaves out, as a path in the request; None if all are
    there.

    ``render`` may raise what a template raises: it has rendered the messages as they are before.
    """
    places: list[str] = []
    known = [_marked_tool(tool, f"tools[{number}]", places) for number, tool in enumerate(tools or ())]
    given = documents if isinstance(documents, list) else []
    shown = [_marked_document(document, f"documents[{number}]", places) for number, document in enumerate(given)]
    marked = [_marked(message, f"messages[{number}]", places) for number, message in enumerate(messages)]
    if not places:
        return None
    found = set(re.findall(rf"{_WORD}x(\d+)x", render(marked, known or None, shown or documents)))
    return next((path for number, path in enumerate(places) if str(number) not in found), None)


def _marked_document(document: Any, path: str, places: list[str]) -> Any:
    """The document with a word of ours in place of its longest text, which is what it says."""
    texts = {key: text for key, text in document.items() if isinstance(text, str)} if isinstance(document, dict) else {}
    if not texts:
        return document
    places.append(path)
    return {**document, max(texts, key=lambda key: len(texts[key])): f"{_WORD}x{len(places) - 1}x"}


def _marked_tool(tool: Any, path: str, places: list[str]) -> Any:
    """The tool by a name of ours, if it has one; ``places`` gets its path."""
    if not isinstance(tool, dict):
        return tool
    if isinstance(tool.get("function"), dict):
        return {**tool, "function": _marked_tool(tool["function"], path, places)}
    if not isinstance(tool.get("name"), str):
        return tool
    places.append(path)
    return {**tool, "name": f"{_WORD}x{len(places) - 1}x"}


def _marked(message: TemplateMessage, path: str, places: list[str]) -> TemplateMessage:
    """The message with words of ours in it; ``places`` gets the path of each."""

    def word(of: str) -> str:
        places.append(of)
        return f"{_WORD}x{len(places) - 1}x"

    def function(given: Any, of: str) -> Any:
        arguments = f'{{"{_WORD}": "{word(of)}"}}'
        return {**given, "name": word(of), "arguments": arguments} if isinstance(given, dict) else given

    out = dict(message)
    if calls := message.get("tool_calls"):
        out["tool_calls"] = [
            {**call, "function": function(call.get("function"), f"{path}.tool_calls[{number}]")}
            for number, call in enumerate(calls)
        ]
    if message.get("function_call"):  # what calls were before there were several
        out["function_call"] = function(message["function_call"], f"{path}.function_call")
    if message.get("role") in TOOL_ROLES and message.get("content"):
        out["content"] = word(path)
    return out
