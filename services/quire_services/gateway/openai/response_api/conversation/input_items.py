"""Input items: each item of a conversation in its full form, with an id, or refused by its place.

The full form is what ``/input_items`` lists and what is kept: contents as lists of parts, every item with ``id``,
``type`` and ``status``. Items of built-in tools are refused: what they say came from tools that are not here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.templates.content_parts import text_of
from quire_services.gateway.tools.shapes.response_items import CALL_ID, MESSAGE_ID, REASONING_ID, new_item_id

from .text_seal import unsealed

Item = dict[str, Any]
MAX_ID_CHARS = 256
OUTPUT_ID = "fco"
REFERENCE = "item_reference"
_ROLES = ("user", "assistant", "system", "developer")


def full_item(given: Any, where: str) -> Item:
    """An item in its full form. Raises ApiError 400; ``where`` is its place in the request."""
    if not isinstance(given, dict):
        raise invalid(f"{where}: an item must be an object", where)
    kind = given.get("type", "message" if "role" in given else None)
    maker = _MAKERS.get(kind) if isinstance(kind, str) else None
    if maker is None:
        shown = repr(kind)[:60]
        raise invalid(f"{where}: items of type {shown} are not served: messages, function calls, their outputs and"
                      " reasoning are", where, "unsupported_item")  # fmt: skip
    return maker(given, where)


def item_text(item: Item) -> str:
    """What an item in its full form says: a message, an output, reasoning."""
    if item["type"] == "reasoning":
        return "\n".join(part["text"] for part in item["content"])
    return text_of(item["output"] if item["type"] == "function_call_output" else item["content"], "input")


def referred_id(given: Any) -> str | None:
    """The item that an item stands for, if it only refers to one."""
    if not isinstance(given, dict) or given.get("type", REFERENCE) != REFERENCE or "role" in given:
        return None
    identity = given.get("id")
    return identity if isinstance(identity, str) else None


def _message(given: Item, where: str) -> Item:
    role, content = given.get("role"), given.get("content")
    if role not in _ROLES:
        raise invalid(f"{where}.role: must be one of {', '.join(_ROLES)}", f"{where}.role")
    own = role == "assistant"
    parts = _parts(content, "output_text" if own else "input_text", where)
    if own:
        parts = [{**part, "annotations": part.get("annotations") or []} if part["type"] == "output_text" else part
                 for part in parts]  # fmt: skip
    return {**_head(given, MESSAGE_ID, "message", where), "role": role, "content": parts}


def _parts(content: Any, kind: str, where: str) -> list[Item]:
    """The parts of a content, which may be a string."""
    if isinstance(content, str):
        return [{"type": kind, "text": content}]
    if not isinstance(content, list):
        raise invalid(f"{where}.content: must be a string or a list of parts", f"{where}.content")
    parts = [{"type": kind, "text": part} if isinstance(part, str) else part for part in content]
    if not all(isinstance(part, dict) for part in parts):
        raise invalid(f"{where}.content: a part must be an object", f"{where}.content")
    text_of(parts, where)  # refuses what is no text
    return [{**part, "type": kind} if part.get("type") in ("text", "input_text", "output_text") else part
            for part in parts]  # fmt: skip


def _call(given: Item, where: str) -> Item:
    said = {name: _text(given, name, where) for name in ("call_id", "name", "arguments")}
    try:
        json.loads(said["arguments"].strip() or "{}")
    except (ValueError, RecursionError):
        raise invalid(f"{where}.arguments: must be JSON", f"{where}.arguments") from None
    return {**_head(given, CALL_ID, "function_call", where), **said}


def _output(given: Item, where: str) -> Item:
    call, output = _text(given, "call_id", where), given.get("output")
    if not isinstance(output, str):
        output = _parts(output, "input_text", f"{where}.output")
    return {**_head(given, OUTPUT_ID, "function_call_output", where), "call_id": call, "output": output}


def _reasoning(given: Item, where: str) -> Item:
    """Reasoning: its text; else what is sealed; else its summary."""
    sealed, content = given.get("encrypted_content"), given.get("content")
    summary = given.get("summary") or []
    if not content and isinstance(sealed, str):
        content = [{"type": "reasoning_text", "text": unsealed(sealed, where)}]
    parts = content or summary
    if not isinstance(parts, list) or not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise invalid(f"{where}: reasoning has a list of parts with text", where)
    told = [{"type": "reasoning_text", "text": part["text"]} for part in parts]
    return {**_head(given, REASONING_ID, "reasoning", where), "summary": summary, "content": told}


def _head(given: Item, prefix: str, kind: str, where: str) -> Item:
    identity = given.get("id")
    if not isinstance(identity, str | None) or len(identity or "") > MAX_ID_CHARS:
        raise invalid(f"{where}.id: must be a string of up to {MAX_ID_CHARS} characters", f"{where}.id")
    status = given.get("status")
    status = status if status in ("completed", "incomplete") else "completed"
    return {"id": identity or f"{prefix}_{new_item_id()}", "type": kind, "status": status}


def _text(given: Item, name: str, where: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not (value or name == "arguments"):
        raise _missing(given, name, where)
    return value


def _missing(given: Item, name: str, where: str) -> ApiError:
    return invalid(f"{where}.{name}: a {given['type']} needs a string as {name!r}", f"{where}.{name}")


_MAKERS: dict[str, Callable[[Item, str], Item]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _reasoning,
}
