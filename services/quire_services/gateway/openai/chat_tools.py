"""Tools of a chat request: their form is checked here, what they say goes to the template as it came.

As it came, key by key, because a published prompt with the same tools must become the same tokens.
"""

from __future__ import annotations

from typing import Any

from quire_services.gateway.http.errors import ApiError, invalid, unsupported

from .bodies import ChatBody


def tools_of(body: ChatBody) -> list[dict[str, Any]] | None:
    """The tools that the model is shown; None if there are none."""
    return None if body.tool_choice == "none" else body.tools or None


def check_tools(body: ChatBody) -> None:
    """Raise ApiError 400 for tools that are no functions, and for ways to choose among them that are not served."""
    for place, tool in enumerate(body.tools or ()):
        _check_tool(tool, f"tools[{place}]")
    if body.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice")
    if body.parallel_tool_calls is False and tools_of(body):
        raise unsupported("parallel_tool_calls")


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
