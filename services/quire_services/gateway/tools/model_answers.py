"""Model answers: how one model's answers are read and held to what a request asks, found out once when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .declared_parser import DeclaredParser
from .format_choice import chosen_format, without_calls
from .formats.response_template import DECLARED, declared_format
from .formats.tool_format import ToolFormat
from .grammar.answer_grammar import answer_grammar
from .grammar.content_format import ContentFormat
from .grammar.schema_check import unbound_tools
from .grammar.tool_choice import ToolChoice
from .parser.answer_parser import AnswerParser
from .parser.parameter_types import Tool

AnyParser = AnswerParser | DeclaredParser


@dataclass(frozen=True, slots=True)
class AskedGrammar:
    """What an answer must be, and of all that what the model most likely writes, by which tokens are drafted."""

    text: str
    likely: str = ""


class NoGrammar(ValueError):
    """What is asked of the model cannot be asked of it; the message is for the client."""


@dataclass(frozen=True, slots=True)
class ModelAnswers:
    """What is known of a model.

    Attributes:
        written: how it writes; without calls if that is not known.
        specials: spelling of each special token -> its id. Texts have none of them: a parser gets them by themselves.
        declared: the tokenizer's ``response_template``, if answers are read by it and not by ``written``.
    """

    written: ToolFormat
    specials: Mapping[str, int]
    declared: Any = None
    _spellings: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_spellings", frozenset(self.specials))  # once, and not for every answer

    @classmethod
    def of(
        cls,
        backend: Any,
        render: Callable[[list[dict[str, Any]], list[Any] | None], str],
        trips: tuple[type[Exception], ...],
        template: str = "",
        response_template: Any = None,
        name: str | None = None,
    ) -> ModelAnswers:
        """Find out how a model writes.

        Args:
            backend: its ``tokenizers.Tokenizer``.
            render, trips, response_template, name: as ``chosen_format`` has them; ``response_template`` as a name asks
                for what the tokenizer declares.
            template: text of its chat template.

        Raises:
            UnknownFormat: there is no format of this name.
        """
        added = backend.get_added_tokens_decoder()
        specials = {token.content: number for number, token in added.items() if token.special}
        spelled = (template, *(token.content for token in added.values()))
        if name == DECLARED:
            found = declared_format(response_template)
        else:
            found = chosen_format(render, trips, spelled, response_template, name)
        usable = found is None and _declares_calls(response_template) and _can_be_read(response_template)
        declared = response_template if usable else None
        return cls(found or without_calls(spelled), specials, declared)

    @property
    def calls(self) -> bool:
        """Whether the model's tool calls can be read."""
        return bool(self.written.forms) or self.declared is not None

    @property
    def name(self) -> str:
        """Of the format, for logs."""
        return DECLARED if self.declared is not None else self.written.name

    def parser(self, tools: Iterable[Tool] | None, prompt: str, must_call: bool = False) -> AnyParser | None:
        """A parser for one answer; None where there is nothing to find: all text is content then.

        Args:
            tools: that the model may call; None: what looks like a call is content.
            prompt: the end of the prompt's text.
            must_call: the answer is held to calls.
        """
        if self.declared is not None:
            template = self.declared if tools is not None else _without_calls(self.declared)
            return DeclaredParser(template, tools, prompt)
        written = self.written if tools is not None else without_forms(self.written)
        if not written.forms and not written.regions:
            return None
        return AnswerParser(written, tools, self.written.opened_by(prompt), self._spellings, must_call)

    def grammar(
        self,
        choice: ToolChoice,
        prompt: str,
        content: ContentFormat | None = None,
        *,
        parallel: bool = True,
        strict: bool = True,
        reasoning: bool = True,
    ) -> AskedGrammar | None:
        """The grammar of an answer, None where it may be any text. ``reasoning``: the request lets the model reason,
        which it does not either where the prompt has closed its reasoning. Raises NoGrammar, SchemaInvalid and
        ContentFormatInvalid."""
        if choice.mode == "none" and content is None:
            return None
        if choice.mode != "none" and not self.written.forms:
            if not choice.binds and content is None:
                return None
            raise NoGrammar("the format of the model's tool calls is not one that an answer can be held to")
        unbound = unbound_tools(choice.functions, self.written.forms[0].body, strict) if choice.functions else ()
        made = partial(
            answer_grammar,
            self.written,
            choice,
            self.specials,
            parallel=parallel,
            strict=strict,
            unbound=unbound,
            opened=self.written.opened_by(prompt),
            reasoning=reasoning and not self.written.closed_by(prompt),
            content=content,
        )
        return AskedGrammar(made(), made(loose=False) if choice.mode != "none" else "")


def without_forms(written: ToolFormat) -> ToolFormat:
    """The format of a model that is to call nothing: content and reasoning alone."""
    return ToolFormat(written.name, (), written.regions, written.joint)


def _declares_calls(template: Any) -> bool:
    declared = template.get("fields") if isinstance(template, Mapping) else None
    return isinstance(declared, Mapping) and "tool_calls" in declared


def _without_calls(template: Mapping[str, Any]) -> dict[str, Any]:
    """The response template of a model that is to call nothing."""
    return {**template, "fields": {name: field for name, field in template["fields"].items() if name != "tool_calls"}}


def _can_be_read(template: Any) -> bool:
    """Whether transformers takes the template; tried when the model is loaded, and not with the first answer."""
    try:
        DeclaredParser(template)
    except Exception:  # of any kind: it trusts what a model's files say
        return False
    return True
