"""Format choice: which format a model writes, found out from its own files.

In this order: what the tokenizer declares; the format in which its chat template writes earlier calls, found by
rendering a call of our own and reading it back; the format whose marks its vocabulary or its template spells. A
template's text is not searched for calls, because what counts is what comes out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from .formats.families import ALIASES, FAMILIES, REASONING
from .formats.response_template import declared_format
from .formats.tool_format import CallForm, NamedCall, Region, TaggedCall, ToolFormat
from .parser.answer_parser import AnswerParser
from .parser.events import ArgumentsDelta, ContentDelta, ToolCallBegin, ToolCallEnd, joined

_Render = Callable[[list[dict[str, Any]], list[Any] | None], str]
_Call = tuple[str, dict[str, Any]]


class UnknownFormat(ValueError):
    """No format has this name; the message says which there are."""


_TEXT = "qzxtext"
_PROPERTIES = {"qzxkey": {"type": "string", "description": "d"}, "qzxcount": {"type": "integer", "description": "d"}}
_PARAMETERS = {"type": "object", "properties": _PROPERTIES, "required": list(_PROPERTIES)}
_CALLS: tuple[_Call, ...] = tuple((f"qzxname{i}", {"qzxkey": f"qzx value {i}", "qzxcount": i + 7}) for i in range(2))
_FUNCTIONS = [{"name": name, "description": "d", "parameters": _PARAMETERS} for name, _ in _CALLS]
_TOOLS = [{"type": "function", "function": function} for function in _FUNCTIONS]
_USER = {"role": "user", "content": "q"}
_CUT_MARK = re.compile(r"[^\s>\]]*\Z")


def chosen_format(
    render: _Render,
    trips: tuple[type[Exception], ...],
    spelled: Iterable[str] = (),
    response_template: Any = None,
    name: str | None = None,
) -> ToolFormat | None:
    """The format that a model writes; None if none is known that fits.

    Args:
        render: a conversation and its tools as text, with the beginning of an answer behind it.
        trips: what ``render`` may raise.
        spelled: the added tokens of the tokenizer and the text of the template.
        response_template: as the tokenizer has it.
        name: of the format, if it is not to be found out; then only which of its forms comes first is.

    Raises:
        UnknownFormat: there is no format of this name.
    """
    known = "\n".join(spelled)
    families = list(FAMILIES.values()) if name is None else [named_format(name)]
    if name is None and (declared := declared_format(response_template)):
        return declared
    found = _written(families, render, trips) or _spelled(families, known) or (families[0] if name else None)
    return found and with_reasoning(found, known)


def named_format(name: str) -> ToolFormat:
    """The format of this name, or of one by which it is known elsewhere. Raises UnknownFormat."""
    found = FAMILIES.get(ALIASES.get(name, name))
    if found is None:
        raise UnknownFormat(f"{name!r} is none of {', '.join(sorted({*FAMILIES, *ALIASES}))}")
    return found


def without_calls(spelled: Iterable[str]) -> ToolFormat:
    """The format of a model that writes no calls that are known: its reasoning alone."""
    return ToolFormat("none", (), _reasoning("\n".join(spelled)))


def with_reasoning(found: ToolFormat, known: str) -> ToolFormat:
    """The format with the marks of reasoning that the model knows; its own if it knows none of ours."""
    regions = _reasoning(known)
    return found if found.marks_content or not regions else replace(found, regions=regions)


def _reasoning(known: str) -> tuple[Region, ...]:
    return tuple(region for region in REASONING if region.open.strip() in known)


def _written(families: list[ToolFormat], render: _Render, trips: tuple[type[Exception], ...]) -> ToolFormat | None:
    """The format in which the template writes calls."""
    for calls in (_CALLS, _CALLS[:1]):
        for tools in (_TOOLS, None):
            try:
                plain = render([_USER, {"role": "assistant", "content": _TEXT}], tools)
                written = render(_turn(calls), tools)
            except trips:
                continue
            for answer in answer_texts(plain.partition(_TEXT)[0], written):
                if found := _read_back(families, answer, calls):
                    return found
    return None


def _turn(calls: tuple[_Call, ...]) -> list[dict[str, Any]]:
    made = [
        {"id": f"call{i}abcd", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for i, (name, arguments) in enumerate(calls)
    ]
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": "a"} for call in made]
    return [_USER, {"role": "assistant", "content": "", "tool_calls": made}, *answers]


def answer_texts(before: str, written: str) -> list[str]:
    """The text from where the answer begins, which is where it parts from another answer: or a little before, if both
    begin with marks that begin alike."""
    pairs = enumerate(zip(before, written, strict=False))
    at = next((place for place, (one, other) in pairs if one != other), min(len(before), len(written)))
    cut = _CUT_MARK.search(written[:at])
    return [written[at:], *([written[cut.start() :]] if cut and cut[0] else [])]


def _read_back(families: list[ToolFormat], answer: str, calls: tuple[_Call, ...]) -> ToolFormat | None:
    for family in families:
        for form in family.forms:
            if _reads(replace(family, forms=(form,)), answer, calls):
                return family if form.remembered else family.preferring(form)
    return None


def _reads(candidate: ToolFormat, answer: str, calls: tuple[_Call, ...]) -> bool:
    """Whether an answer is these calls and nothing before them; what comes after them is the next turn."""
    parser = AnswerParser(candidate, _TOOLS)
    found: list[_Call] = []
    name = ""
    arguments = ""
    for event in joined(parser.feed(answer) + parser.finish()):
        match event:
            case ToolCallBegin():
                name, arguments = event.name, ""
            case ArgumentsDelta():
                arguments = event.text
            case ToolCallEnd(complete=True):
                found.append((name, _loaded(arguments)))
            case ContentDelta() if len(found) < len(calls):
                return False
    return tuple(found) == calls


def _loaded(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return None


def _spelled(families: list[ToolFormat], known: str) -> ToolFormat | None:
    """The format with the most marks among those of which all marks are spelled; no format without marks."""
    marked = ((family, form, _marks(form)) for family, form in _forms_with_marks(families))
    found = [(len(marks), family.preferring(form)) for family, form, marks in marked if _in(marks, known)]
    return max(found, key=lambda one: one[0])[1] if found else None


def _forms_with_marks(families: list[ToolFormat]) -> list[tuple[ToolFormat, CallForm]]:
    return [
        (family, form)
        for family in families
        if not family.forms[0].leads
        for form in family.forms
        if not form.remembered
    ]


def _marks(form: CallForm) -> tuple[str, ...]:
    body = form.body
    inner: tuple[str, ...] = ()
    if isinstance(body, NamedCall):
        inner = (body.before_id, body.before_arguments)
    elif isinstance(body, TaggedCall):
        inner = (body.key_open, body.key_close, body.value_close)
    literals = (form.section_open, form.open, *inner, form.close, form.section_close)
    return tuple(dict.fromkeys(word for literal in literals for word in literal.split()))


def _in(marks: tuple[str, ...], known: str) -> bool:
    return bool(marks) and all(mark in known for mark in marks)
