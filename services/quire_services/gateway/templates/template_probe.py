"""Probe: what a chat template does with tools, found out by rendering samples before the first request.

A template is a program; what it reads of a tool turn is nowhere declared, and what it does not read it leaves out
without a word. So a sample turn is rendered in every form that clients' turns can be given (``tool_turns``) and the
first form is kept in which the tool's name, the arguments and the answer all appear in the text, unspoilt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .tool_turns import ABSENT, RenderChat, TemplateMessage, ToolForm, in_tool_form

# Words that no template contains; nothing in them is changed by trimming, escaping or quoting.
_TOOL, _TEXT, _NAME, _KEY, _VALUE, _ANSWER = "qzxtool", "qzxtext", "qzxname", "qzxkey", "qzxvalue", "qzxanswer"
_PARAMETERS = {"type": "object", "properties": {"p": {"type": "string", "description": "d"}}, "required": ["p"]}
_TOOLS = [{"type": "function", "function": {"name": _TOOL, "description": "d", "parameters": _PARAMETERS}}]
_USER = {"role": "user", "content": "q"}
_LATER = [{"role": "assistant", "content": "r"}, {"role": "user", "content": "s"}]


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template does with tools.

    Attributes:
        form: how it wants tool turns.
        shows_tools: it writes the tools it is given.
        shows_calls: it writes calls and answers in some form; else ``form`` is of no meaning.
        notes: what an operator of the model should know, a sentence each.
    """

    form: ToolForm
    shows_tools: bool
    shows_calls: bool
    notes: tuple[str, ...]


def probe_template(render: RenderChat, errors: tuple[type[Exception], ...]) -> TemplateTraits:
    """Try a template; ``errors``: what it may raise."""

    def text(messages: list[TemplateMessage], tools: list[Any] | None) -> str:
        try:
            return render(messages, tools)
        except errors:
            return ""

    shows_tools = _shows_tools(text)
    form = _single(text)
    if form is None:
        note = "the chat template writes no tool calls" + ("" if shows_tools else " and no tools")
        try:
            render(in_tool_form(_turn(1), ToolForm()), None)
            why = ""
        except errors as error:
            why = f" ({error})"
        return TemplateTraits(ToolForm(), shows_tools, False, (f"{note}{why}: chats with them are refused",))
    form, beside = _beside(text, form)
    form, several = _several(text, form)
    notes = []
    if not shows_tools:
        notes.append("the chat template writes no tools: chats with them are refused")
    if not beside:
        notes.append("the chat template leaves out what an assistant says beside tool calls")
    if not several:
        notes.append("the chat template does not write several tool calls of one message: such chats are refused")
    return TemplateTraits(form, shows_tools, True, tuple(notes))


def _shows_tools(text: RenderChat) -> bool:
    """Whether the tools' names appear in some chat; of a template that refuses every sample it is not known: yes."""
    system = {"role": "system", "content": "t"}
    texts = [text(chat, _TOOLS) for chat in ([_USER], [system, _USER], [_USER, *_LATER], _turn(1))]
    return any(_TOOL in found for found in texts) or not any(texts)


def _turn(calls: int, content: str = "") -> list[TemplateMessage]:
    """A sample: a question, calls, their answers."""
    made = [
        {
            "id": f"call_{place}abcdefghijklmnopqrstuvw",
            "type": "function",
            "function": {"name": f"{_NAME}{place}", "arguments": f'{{"{_KEY}{place}": "{_VALUE}{place}"}}'},
        }
        for place in range(calls)
    ]
    answers = [{"role": "tool", "tool_call_id": c["id"], "content": f"{_ANSWER}{i}"} for i, c in enumerate(made)]
    return [_USER, {"role": "assistant", "content": content, "tool_calls": made}, *answers]


def _words(calls: int) -> list[str]:
    return [f"{word}{place}" for place in range(calls) for word in (_NAME, _KEY, _VALUE, _ANSWER)]


def _holds(text: str, *words: str) -> bool:
    return all(word in text for word in words)


def _forms() -> Iterator[ToolForm]:
    """Forms of a single call, the common ones first."""
    choices = itertools.product((False, True), (False, True), (False, True), ("", None, ABSENT))
    for nine, named, as_text, no_content in choices:
        yield ToolForm(arguments_as_text=as_text, no_content=no_content, nine=nine, named=named)


def _single(text: RenderChat) -> ToolForm | None:
    """The first form in which a call and its answer are written, one in which they are written well before others."""
    found = []
    for tools in (_TOOLS, None):
        nothing = text([_USER], tools)
        for form in _forms():
            written = text(in_tool_form(_turn(1), form), tools)
            if _holds(written, *_words(1)):
                if not _spoilt(written, nothing):
                    return form
                found.append(form)
    return found[0] if found else None


def _spoilt(written: str, nothing: str) -> bool:
    """Whether arguments are written as Python writes objects, or as text within text, or "None" for no content."""
    spoilt = (f"'{_KEY}", f'\\"{_KEY}')
    return any(word in written for word in spoilt) or written.count("None") > nothing.count("None")


def _beside(text: RenderChat, form: ToolForm) -> tuple[ToolForm, bool]:
    """The form with text beside calls where the template writes both; whether it does."""
    turn, words = _turn(1, _TEXT), [_TEXT, *_words(1)]
    apart = replace(form, apart=True)
    for tools in (_TOOLS, None):
        if _holds(text(in_tool_form(turn, form), tools), *words):
            return form, True
        later = [*turn, *_LATER]
        if all(_holds(text(in_tool_form(chat, apart), tools), *words) for chat in (turn, later)):
            return apart, True
    together = any(_holds(text(in_tool_form(turn, form), tools), *_words(1)) for tools in (_TOOLS, None))
    return (form if together else apart), False


def _several(text: RenderChat, form: ToolForm) -> tuple[ToolForm, bool]:
    """The form with several calls in a message as the template writes all of them; whether it does."""
    for candidate in (form, replace(form, one_by_one=True)):
        if any(_holds(text(in_tool_form(_turn(3), candidate), tools), *_words(3)) for tools in (_TOOLS, None)):
            return candidate, True
    return form, False
