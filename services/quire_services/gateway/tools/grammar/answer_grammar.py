"""Answer grammar: all that an answer may be, reasoning included, from a format and a choice of tools.

Where tools may be called, text is free until the model itself begins a call; from there on it is held to the tools and
their schemas. Where a tool must be called, the answer is reasoning, if the model reasons, and calls.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from quire_services.gateway.tools.formats.tool_format import CallForm, ObjectCall, Region, ToolFormat

from .argument_rules import ArgumentRules
from .content_format import ContentFormat
from .lark_rules import GAP, TEXT, LarkRules, pattern, without
from .tool_choice import ToolChoice


def answer_grammar(
    written: ToolFormat,
    choice: ToolChoice,
    specials: Mapping[str, int] | None = None,
    *,
    parallel: bool = True,
    strict: bool = True,
    unbound: Collection[str] = (),
    opened: Region | None = None,
    reasoning: bool = True,
    content: ContentFormat | None = None,
    loose: bool = True,
) -> str:
    """The text of a grammar for llguidance.

    Args:
        written: how the model writes.
        choice: tools that may or must be called.
        specials: spelling of each special token of the tokenizer -> its id.
        parallel: there may be several calls.
        strict: arguments are held to every tool's schema, not only to those of strict tools.
        unbound: names of tools whose arguments are held to no schema.
        opened: the region that the prompt has opened.
        reasoning: the model may reason; if it may not, what the prompt has opened is closed at once.
        content: what it must be that is no call and no reasoning; None for any text.
        loose: whitespace in calls may be any, so that a model may keep its own way; else it is as templates write it.

    Raises:
        ContentFormatInvalid: no grammar can be made of ``content``.
    """
    rules = LarkRules(specials or {}, loose and choice.mode != "none")
    calls = ArgumentRules(rules, strict, unbound)
    answer = _Answer(rules, written, choice, parallel and not choice.one, calls, content)
    return rules.text(answer.marked(reasoning) if written.marks_content else answer.plain(opened, reasoning))


class _Answer:
    def __init__(
        self,
        rules: LarkRules,
        written: ToolFormat,
        choice: ToolChoice,
        several: bool,
        calls: ArgumentRules,
        content: ContentFormat | None,
    ) -> None:
        self._rules = rules
        self._written = written
        self._choice = choice
        self._form = written.forms[0] if written.forms and choice.mode != "none" else None
        self._several = several and bool(self._form and self._form.several)
        self._content = content.rule(rules) if content else ""
        self._calls_of = calls

    def plain(self, opened: Region | None, reasoning: bool) -> str:
        """An answer of a format in which all that is not marked is content."""
        region = opened or self._written.reasoning
        if region is None:
            return self._body("")
        begin, end = region.open.strip(), region.closes[0].strip()
        marked = "" if self._rules.is_token(begin) else pattern(begin)
        if not reasoning:
            closed = f"{GAP} {self._rules.exact(end)} {GAP} " if opened else ""
            return closed + self._body(marked)
        close = self._rules.until(end)
        if opened:
            return f"{close} {GAP} {self._body('')}"
        thought = self._rules.rule(f"{self._rules.literal(region.open.rstrip())} {close} {GAP}")
        return f"({thought} {self._body('')} | {self._body(marked)})"

    def marked(self, reasoning: bool) -> str:
        """An answer of a format in which content stands in regions of its own: messages, the last of which ends it."""
        rules, joint = self._rules, self._rules.literal(self._written.joint)
        contents = [region for region in self._written.regions if region.kind == "content"]
        before = [region for region in self._written.regions if region.kind == "reasoning" and reasoning]
        last = []
        if self._choice.mode != "required":
            said = self._content or TEXT
            last = [f"{rules.literal(region.open)} {said} {self._closes(region)}" for region in contents[:1]]
            before += contents[1:]
        if self._form:
            last.append(rules.rule(self._calls(self._form)))
        messages = [rules.rule(f"{rules.literal(region.open)} {rules.until(region.closes[0])}") for region in before]
        earlier = f"(({' | '.join(messages)}) {joint})*" if messages else ""
        return f"{earlier} ({' | '.join(last)})"

    def _closes(self, region: Region) -> str:
        return f"({' | '.join(map(self._rules.literal, region.closes))})?"

    def _body(self, never: str) -> str:
        """Content and calls. ``never`` is a pattern that free text does not begin with."""
        form, first = self._form, TEXT
        if self._choice.mode == "required" and form:
            return self._rules.rule(f"{self._calls(form)} {self._rules.rest}")
        if form and form.leads:
            never = "|".join(filter(None, (never, self._leading(form))))
        if never:
            first = self._rules.terminal(without(f"({never})"))
        if form is None:
            return self._content or first
        if self._content or form.leads:
            return self._rules.rule(f"{self._calls(form)} {self._rules.rest} | {self._content or first}")
        calls = self._among_text(form, first)
        return self._rules.rule(f"{first} | {calls}")

    def _among_text(self, form: CallForm, first: str) -> str:
        """Free text with calls in it."""
        if not self._several:
            return f"{self._begun(form, first)} {GAP}"
        again = self._rules.rule(self._begun(form, TEXT))
        return f"{self._begun(form, first)} {again}* {TEXT}"

    def _begun(self, form: CallForm, before: str) -> str:
        """Text, and the calls that stand together behind it."""
        if form.section_open:
            inner = self._together(form, self._rules.literal(form.open))
            return f"{self._rules.until(form.section_open, before)} {inner} {self._rules.literal(form.section_close)}"
        return f"{self._rules.until(form.open, before)} {self._one(form, '')}"

    def _calls(self, form: CallForm) -> str:
        """Calls, with nothing before them."""
        inner = self._together(form, self._rules.literal(form.open))
        return f"{self._rules.literal(form.section_open)} {inner} {self._rules.literal(form.section_close)}"

    def _together(self, form: CallForm, opening: str) -> str:
        one = self._rules.rule(self._one(form, opening))
        return f"{one} ({self._rules.literal(form.separator)} {one})*" if self._several else one

    def _one(self, form: CallForm, opening: str) -> str:
        """One call of any of the tools."""
        calls = (self._rules.rule(self._calls_of.call(form.body, one)) for one in self._choice.functions)
        return f"{opening} ({' | '.join(calls)}) {self._rules.literal(form.close)}"

    def _leading(self, form: CallForm) -> str:
        """A pattern of how a call begins that nothing else marks."""
        if isinstance(form.body, ObjectCall):
            return rf'\{{\s*"{re.escape(form.body.name)}"'
        names = "|".join(pattern(str(one["name"])) for one in self._choice.functions)
        return rf"{pattern(form.section_open + form.open)}\s*({names})\("
