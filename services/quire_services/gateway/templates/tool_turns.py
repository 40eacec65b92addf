"""Tool turns: messages in which an assistant calls tools and tools answer, in the form that a chat template reads.

Clients of the API write such turns in one way. Templates do not read them in one way: some want the arguments as an
object and some as text, some show the calls only where there is no content, some know one call a message, some take ids
of nine characters only. ``ToolForm`` is what can differ, ``in_tool_form`` writes messages in a form; which form a
template wants is found out by trying (``template_probe``).

Invariants: nothing a client said is left out in any form. Messages without tool turns are not touched. The form of a
message depends on it and on those before it (and for calls that are written one by one, on their answers), so that a
conversation that goes on begins with the same text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .call_ids import nine_characters

TemplateMessage = dict[str, Any]
RenderChat = Callable[[list[TemplateMessage], list[Any] | None], str]  # messages and tools to text
ABSENT = "absent"
TOOL_ROLES = ("tool", "function")


@dataclass(frozen=True, slots=True)
class ToolForm:
    """How tool turns are written.

    Attributes:
        arguments_as_text: arguments of a call as JSON text, not as an object.
        no_content: content of a message that has calls only: an empty string, None, or ``ABSENT``.
        nine: ids of calls have nine letters and digits.
        named: a tool's answer says the tool's name.
        apart: text beside calls goes into a message of its own, before them.
        one_by_one: of several calls in a message each gets a message, followed by its answer.
    """

    arguments_as_text: bool = False
    no_content: str | None = ""
    nine: bool = False
    named: bool = False
    apart: bool = False
    one_by_one: bool = False


def has_tool_turns(messages: Sequence[TemplateMessage]) -> bool:
    """Whether a message calls a tool or answers such a call."""
    return any(message.get("tool_calls") or message.get("role") in TOOL_ROLES for message in messages)


def in_tool_form(messages: list[TemplateMessage], form: ToolForm) -> list[TemplateMessage]:
    """The same conversation in this form. Raises ValueError for arguments that are not JSON."""
    if not has_tool_turns(messages):
        return messages
    ids = nine_characters(_ids(messages)) if form.nine else {}
    names = _names(messages) if form.named else {}
    out: list[TemplateMessage] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        if not message.get("tool_calls"):
            out.append(_answer(message, ids, names))
            continue
        turns = _calls(message, form, ids)
        if len(turns) > 1 and form.one_by_one:
            end = next((i for i in range(place, len(messages)) if not _is_answer(messages[i])), len(messages))
            turns = _interleaved(turns, [_answer(answer, ids, names) for answer in messages[place:end]])
            place = end
        out += turns
    return out


def _calls(message: TemplateMessage, form: ToolForm, ids: dict[str, str]) -> list[TemplateMessage]:
    """The messages that one with calls becomes."""
    calls = [_call(call, form, ids) for call in message["tool_calls"]]
    text = message.get("content")
    rest = {key: value for key, value in message.items() if key not in ("content", "tool_calls")}
    turns: list[TemplateMessage] = []
    if text and form.apart:
        turns.append({**rest, "content": text})
        text, rest = "", {"role": message["role"]}
    content = {} if not text and form.no_content is ABSENT else {"content": text or form.no_content}
    if not form.one_by_one:
        return [*turns, {**rest, **content, "tool_calls": calls}]
    empty = {} if form.no_content is ABSENT else {"content": form.no_content}
    turns.append({**rest, **content, "tool_calls": calls[:1]})
    return turns + [{"role": message["role"], **empty, "tool_calls": [call]} for call in calls[1:]]


def _interleaved(turns: list[TemplateMessage], answers: list[TemplateMessage]) -> list[TemplateMessage]:
    """Each message with a call, followed by the answers to it; answers to none of them at the end."""
    out: list[TemplateMessage] = []
    for turn in turns:
        asked = [call.get("id") for call in turn.get("tool_calls", ())]
        mine = [answer for answer in answers if answer.get("tool_call_id") in asked]
        answers = [answer for answer in answers if answer.get("tool_call_id") not in asked]
        out += [turn, *mine]
    return out + answers


def _call(call: Any, form: ToolForm, ids: dict[str, str]) -> Any:
    function = call.get("function")
    out = {**call, "id": ids.get(call["id"], call["id"])} if isinstance(call.get("id"), str) else dict(call)
    if isinstance(function, dict):
        out["function"] = {**function, "arguments": _arguments(function.get("arguments"), form.arguments_as_text)}
    return out


def _arguments(given: Any, as_text: bool) -> Any:
    """Arguments as an object or as text. A call without arguments has an empty object, however a client says so."""
    if isinstance(given, str):
        value = json.loads(given) if given.strip() else None
        if value is None:
            given = {}
        elif not as_text:
            given = value
    elif given is None:
        given = {}
    return json.dumps(given, ensure_ascii=False) if as_text and not isinstance(given, str) else given


def _answer(message: TemplateMessage, ids: dict[str, str], names: dict[str, str]) -> TemplateMessage:
    """A message without calls; of a tool's answer, the id and the name as the form wants them."""
    called = message.get("tool_call_id")
    if not _is_answer(message) or not isinstance(called, str):
        return message
    named = {"name": names[called]} if called in names and "name" not in message else {}
    return {**message, "tool_call_id": ids.get(called, called), **named}


def _is_answer(message: TemplateMessage) -> bool:
    return message.get("role") in TOOL_ROLES


def _ids(messages: list[TemplateMessage]) -> list[str]:
    """Ids of calls and answers, as they come."""
    found: list[Any] = []
    for message in messages:
        found += [call.get("id") for call in message.get("tool_calls") or ()]
        found.append(message.get("tool_call_id"))
    return [identity for identity in found if isinstance(identity, str)]


def _names(messages: list[TemplateMessage]) -> dict[str, str]:
    """Id of a call -> name of the tool."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    pairs = [(call.get("id"), (call.get("function") or {}).get("name")) for call in calls]
    return {identity: name for identity, name in pairs if isinstance(identity, str) and isinstance(name, str)}
