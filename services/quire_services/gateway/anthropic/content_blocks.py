"""Content blocks: the turns of a message request as the messages of a chat.

Turns of a role that follow each other are one turn, as the API has it. A turn of the user's becomes a tool's answers
and what the user says, in the order of its blocks; a turn of the assistant's becomes one message with its text, its
reasoning and its calls. Blocks that are no text are refused by name: a model that never sees an image must not answer
as if it had. ``cache_control`` is ignored: every prompt is looked up in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.http.own_words import MessagePlace

from .bodies import Blocks, Turn

# Claude Code begins its system prompt with a line for accounts that is another in every request; no prompt would begin
# as the one before it.
BILLING_LINE = "x-anthropic-billing-header:"
FAILED = "Error: "  # before what a tool says that has failed
_Placed = tuple[str, dict[str, Any]]  # a block, and where it is
_Message = tuple[dict[str, Any], MessagePlace]  # of the chat, and where it comes from: its first block


def chat_messages(system: Blocks | None, turns: Sequence[Turn]) -> list[_Message]:
    """The messages of the chat, each with its place. Raises ApiError 400."""
    out = list[_Message]()
    if text := _system_text(system):
        out.append(({"role": "system", "content": text}, MessagePlace("system")))
    placed = [(turn, f"messages[{number}].content") for number, turn in enumerate(turns)]
    for role, group in groupby(placed, key=lambda one: one[0].role):
        together = list(group)
        begin = MessagePlace(together[0][1])
        blocks = [block for turn, where in together for block in _placed(turn.content, where)]
        if role == "system":
            text = "\n".join(_text(block, where) for where, block in blocks)
            out.append(({"role": role, "content": text}, begin))
        else:
            out += [_assistant(blocks, begin)] if role == "assistant" else _user(blocks, begin)
    return out


def _system_text(system: Blocks | None) -> str:
    texts = [_text(block, where) for where, block in _placed(system or "", "system")]
    if texts and texts[0].startswith(BILLING_LINE):
        texts[0] = texts[0].partition("\n")[2]
        texts = texts if texts[0] else texts[1:]
    return "\n".join(texts)


def _user(blocks: list[_Placed], begin: MessagePlace) -> Iterator[_Message]:
    texts: list[str] = []
    answered = False
    for where, block in blocks:
        if block.get("type") != "tool_result":
            begin = begin if texts else MessagePlace(where)
            texts.append(_text(block, where))
            continue
        if texts:
            yield {"role": "user", "content": "\n".join(texts)}, begin
        yield _tool_result(block, where), MessagePlace(where)
        texts, answered = [], True
    if texts or not answered:
        yield {"role": "user", "content": "\n".join(texts)}, begin


def _tool_result(block: dict[str, Any], where: str) -> dict[str, Any]:
    called = _string(block, "tool_use_id", where)
    content, failed = block.get("content"), block.get("is_error")
    if not isinstance(content, str | list | None):
        raise _wrong("must be a string or a list of blocks", f"{where}.content")
    if not isinstance(failed, bool | None):
        raise _wrong("must be true or false", f"{where}.is_error")
    text = "\n".join(_text(inner, at) for at, inner in _placed(content or "", f"{where}.content"))
    return {"role": "tool", "tool_call_id": called, "content": FAILED + text if failed else text}


def _assistant(blocks: list[_Placed], begin: MessagePlace) -> _Message:
    texts, thoughts, calls = [], [], []
    for where, block in blocks:
        match block.get("type"):
            case "tool_use":
                calls.append(_call(block, where))
                begin.calls.append(where)
            case "thinking":
                thoughts.append(_string(block, "thinking", where))
            case "redacted_thinking":  # encrypted by the service that wrote it, for itself
                _string(block, "data", where)
            case _:
                texts.append(_text(block, where))
    out: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        out["reasoning_content"] = "\n".join(thoughts)
    if calls:
        out["tool_calls"] = calls
    return out, begin


def _call(block: dict[str, Any], where: str) -> dict[str, Any]:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise _wrong("must be an object", f"{where}.input")
    function = {"name": _string(block, "name", where), "arguments": arguments}
    return {"id": _string(block, "id", where), "type": "function", "function": function}


def _placed(content: Blocks, where: str) -> list[_Placed]:
    """Blocks and their places; a string is one of text."""
    if isinstance(content, str):
        return [(where, {"type": "text", "text": content})] if content else []
    return [(f"{where}[{number}]", _block(block, f"{where}[{number}]")) for number, block in enumerate(content)]


def _block(block: Any, where: str) -> dict[str, Any]:
    if not isinstance(block, dict):
        raise _wrong("a block must be an object", where)
    return block


def _text(block: dict[str, Any], where: str) -> str:
    kind = block.get("type")
    if kind != "text":
        named = repr(kind) if isinstance(kind, str) and len(kind) <= 40 else "(unreadable)"
        raise _wrong(f"a block of type {named} is not served here, the model reads text only", where)
    return _string(block, "text", where)


def _string(block: dict[str, Any], key: str, where: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise _wrong("must be a string", f"{where}.{key}")
    return value


def _wrong(message: str, param: str) -> ApiError:
    return invalid(f"{param}: {message}", param)
