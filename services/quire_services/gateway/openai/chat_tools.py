"""Tools of a chat request: their form is checked here, what they say goes to the template as it came.

As it came, key by key, because a published prompt with the same tools must become the same tokens.
"""

from __future__ import annotations

from typing import Any

from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.tools.grammar.tool_choice import ToolChoice, ToolChoiceInvalid, tool_choice_of

from .bodies import ChatBody

NO_PARSER = (
    "no tool parser fits this model, its calls would come back as text; send 'tool_choice': \"none\", or have the"
    " gateway started with --tool-parser"
)


def choice_of(body: ChatBody) -> ToolChoice:
    """What the request lets the model do with its tools. Raises ApiError 400."""
    try:
        return tool_choice_of(body.tool_choice, body.tools)
    except ToolChoiceInvalid as error:
        raise _wrong(str(error), "tool_choice") from None


def callable_tools(body: ChatBody) -> list[dict[str, Any]] | None:
    """The tools that the model may call; None if there are none."""
    names = {function["name"] for function in choice_of(body).functions}
    return [tool for tool in body.tools or () if tool["function"]["name"] in names] or None


def shown_tools(body: ChatBody, shows_tools: bool) -> list[dict[str, Any]] | None:
    """The tools that the prompt has; None if there are none.

    Where none is to be called they stay in it, because a prompt without them would begin with other tokens than the
    conversation did so far. A template that shows no tools (``shows_tools``) is not asked to.
    """
    return body.tools or None if shows_tools else callable_tools(body)


def check_tools(body: ChatBody, finds_calls: bool) -> None:
    """Raise ApiError 400 for tools that are no functions, for a choice among them that cannot be made, and for tools
    whose calls would not be found in the answer (``finds_calls``: they would)."""
    for place, tool in enumerate(body.tools or ()):
        _check_tool(tool, f"tools[{place}]")
    if callable_tools(body) and not finds_calls:
        raise invalid(NO_PARSER, "tools", "no_tool_parser")


def _check_tool(tool: dict[str, Any], where: str) -> None:
    kind = tool.get("type", "function" if "function" in tool else None)
    if kind != "function":
        raise _wrong("only tools of type 'function' are supported", f"{where}.type")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise _wrong("a tool needs a function, an object", f"{where}.function")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise _wrong("a function needs a name", f"{where}.function.name")
    if not isinstance(function.get("description"), str | None):
        raise _wrong("a function's description must be a string", f"{where}.function.description")
    if not isinstance(function.get("parameters"), dict | None):
        raise _wrong("a function's parameters must be a JSON schema, an object", f"{where}.function.parameters")


def _wrong(message: str, param: str) -> ApiError:
    return invalid(f"{param}: {message}", param)
