"""Client tools: the tools of a message request, and which of them the model may call, as a chat has them.

What a tool says goes to the template in the order of keys in which the official client of chats sends it, so that a
published prompt with the same tools becomes the same tokens. Tools that run at Anthropic's, and those whose schema its
models know by heart, are refused by name: no model here would know them.
"""

from __future__ import annotations

from typing import Any

from quire_services.gateway.http.errors import ApiError, invalid

from .bodies import ToolPreference

_CUSTOM = (None, "custom")
# Key of a tool -> the value with which it changes nothing.
_ONLY = {"defer_loading": False, "allowed_callers": ["direct"], "input_examples": []}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools of the chat. Raises ApiError 400."""
    return [{"type": "function", "function": _function(tool, f"tools[{place}]")} for place, tool in enumerate(tools)]


def chat_tool_choice(preference: ToolPreference) -> dict[str, Any]:
    """The fields of a chat that say the same. Raises ApiError 400."""
    parallel: dict[str, Any] = {"parallel_tool_calls": False} if preference.disable_parallel_tool_use else {}
    if preference.type != "tool":
        return {"tool_choice": _CHOICES[preference.type], **parallel}
    if not preference.name:
        raise _wrong("a tool is chosen by its name", "tool_choice.name")
    return {"tool_choice": {"type": "function", "function": {"name": preference.name}}, **parallel}


def _function(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") not in _CUSTOM:
        raise _wrong(f"tools of type {str(tool['type'])[:40]!r} are not served, only those with a schema", where)
    for key, neutral in _ONLY.items():
        if tool.get(key) not in (None, neutral):
            raise _wrong("is not served; leave it out", f"{where}.{key}")
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise _wrong("a tool needs a name", f"{where}.name")
    if not isinstance(tool.get("description"), str | None):
        raise _wrong("must be a string", f"{where}.description")
    if not isinstance(tool.get("input_schema"), dict):
        raise _wrong("a tool needs a JSON schema, an object", f"{where}.input_schema")
    if not isinstance(tool.get("strict"), bool | None):
        raise _wrong("must be true or false", f"{where}.strict")
    said = {"name": tool["name"], "description": tool.get("description"), "parameters": tool["input_schema"]}
    said["strict"] = tool.get("strict")
    return {key: value for key, value in said.items() if value is not None}


def _wrong(message: str, param: str) -> ApiError:
    return invalid(f"{param}: {message}", param)
