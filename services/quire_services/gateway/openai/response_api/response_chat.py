"""Response chat: a request for a response, said as a request for a chat.

What is behind it - templates, tools, grammars, limits - is that of chats. What they find wrong is told in the words of
this API (``in_own_words``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.http.own_words import MessagePlace, field_word, placed, worded
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.json_body import validated

from .conversation.item_messages import ItemMessages
from .response_body import SHARED, ResponseBody

_WORDS = (
    (re.compile(r"(tools\[\d+\]|tool_choice)\.function\b"), r"\1"),
    field_word("messages", "input"),
    field_word("max_completion_tokens", "max_output_tokens"),
    field_word("reasoning_effort", "reasoning.effort"),
    field_word(r"response_format(?:\.json_schema)?", "text.format"),
)
_TOOL_EXTRAS = {"defer_loading": (False,), "async": (False,), "allowed_callers": (["direct"],)}


def response_chat(body: ResponseBody, conversation: ItemMessages) -> ChatBody:
    """The chat. Raises ApiError 400."""
    extra = body.model_extra or {}
    said = {name: value for name in SHARED if (value := extra.get(name, getattr(body, name, None))) is not None}
    reasoning, text = body.reasoning, body.text
    own = {
        "messages": conversation.messages,
        "max_completion_tokens": body.max_output_tokens,
        "tools": [_tool(tool, f"tools[{place}]") for place, tool in enumerate(body.tools or ())] or None,
        "tool_choice": _tool_choice(body.tool_choice),
        "response_format": _response_format(text.format) if text else None,
        "reasoning_effort": reasoning.effort if reasoning else None,
        "logprobs": body.wants_logprobs or None,
        "top_logprobs": body.top_logprobs,
        "user": body.user,
    }
    try:
        return validated(ChatBody, said | {name: value for name, value in own.items() if value is not None})
    except ApiError as error:
        raise in_own_words(error, conversation.places) from None


def in_own_words(error: ApiError, places: Sequence[MessagePlace] = ()) -> ApiError:
    """The error, about a chat, as one about the response; ``places``: where each message comes from, if one is spoken
    of."""
    return worded(placed(error, places) if places else error, _WORDS)


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    """A tool as chats have it: what it says stays in its order."""
    if tool.get("type") != "function":
        reason = f"{where}: only tools of type 'function' are served, which the client runs itself"
        raise invalid(reason, f"{where}.type", "unsupported_tool")
    for name, neutral in _TOOL_EXTRAS.items():
        if tool.get(name) is not None and tool[name] not in neutral:
            raise invalid(f"{where}.{name} is not served", f"{where}.{name}", "unsupported_parameter")
    told = {name: value for name, value in tool.items() if name not in ("type", *_TOOL_EXTRAS) and value is not None}
    return {"type": "function", "function": told}


def _tool_choice(choice: Any) -> Any:
    """A choice as chats have it."""
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == "function":
        return {"type": kind, "function": {name: value for name, value in choice.items() if name != "type"}}
    if kind == "allowed_tools":
        tools = choice.get("tools")
        named = [_tool_choice(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": kind, "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": named}}
    reason = "'tool_choice' may be a string, a function or allowed_tools: other tools are not served"
    raise invalid(reason, "tool_choice", "unsupported_tool")


def _response_format(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """A format as chats have it; None for any text."""
    if given is None or given.get("type") == "text":
        return None
    if given.get("type") != "json_schema":
        return given
    return {"type": "json_schema", "json_schema": {name: value for name, value in given.items() if name != "type"}}
