"""The chat templates of a model: where they come from, which one a chat takes, and rendering without silent loss.

A model has one template, several by name (``default``, ``tool_use``), or none. They are read and probed once, at load:
one that is not valid is refused there and not at the first request.

Invariant: a conversation is rendered with all its tool calls, their answers and its tools, or refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import jinja2
from jinja2.meta import find_undeclared_variables

from quire_services.gateway.http.errors import invalid

from .lost_turns import RenderWithDocuments, lost_path
from .plain_form import PlainForm, plain_form
from .template_probe import TemplateTraits, probe_template
from .tool_turns import TemplateMessage, has_tool_turns, in_tool_form

TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
PROCESSOR_FILE = "chat_template.json"  # where models that also see or hear keep theirs
DEFAULT, TOOL_USE, RAG = "default", "tool_use", "rag"
DOCUMENTS_VARIABLE = "documents"
EFFORT_VARIABLE, NO_EFFORT = "reasoning_effort", "none"
THINKING_VARIABLE = "enable_thinking"
THINKING_VARIABLES = (THINKING_VARIABLE, "thinking")  # the second is that of DeepSeek's and Granite's templates
_PARAMETERS = (DOCUMENTS_VARIABLE, EFFORT_VARIABLE)  # variables that are parameters of the API by themselves


class Ending(Enum):
    """Where the text of a conversation ends."""

    ANSWER = "answer"  # with what opens an answer
    MESSAGE = "message"  # with what closes the last message
    WITHIN = "within"  # with the text of the last message, which the answer goes on with


class TemplateInvalid(Exception):
    """A template that cannot be used; one line says why."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """One template.

    Attributes:
        source: its Jinja text.
        special: what it knows besides the messages: ``bos_token`` and its like.
        plain: how it takes messages.
        traits: what it does with tools.
        reads: variables that it reads.
    """

    source: str
    special: dict[str, Any]
    plain: PlainForm
    traits: TemplateTraits
    reads: frozenset[str]

    @classmethod
    def probed(cls, name: str, source: object, special: dict[str, Any]) -> ChatTemplate:
        """A template and what it does; raises TemplateInvalid."""
        if not isinstance(source, str):
            raise TemplateInvalid(f"the chat template {name!r} is not text")
        try:
            reads = _reads(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateInvalid(f"the chat template {name!r} is not valid, line {error.lineno}: {error}") from None
        plain, notes = plain_form(lambda messages, tools: _rendered(source, messages, tools, special), TEMPLATE_ERRORS)
        traits = probe_template(
            lambda messages, tools: _rendered(source, plain.written(messages), tools or plain.none, special),
            TEMPLATE_ERRORS,
        )
        return cls(source, special, plain, replace(traits, notes=notes + traits.notes), reads)

    def render(
        self,
        messages: list[TemplateMessage],
        tools: list[Any] | None,
        options: dict[str, Any],
        ending: Ending = Ending.ANSWER,
    ) -> str:
        """The text of a conversation. Raises ApiError for one that the template refuses or would not show whole."""
        if tools and not self.traits.shows_tools:
            raise invalid("the model's chat template writes no tools: it would not know them", "tools", "no_tools")

        options = self._thinking(options)
        if unread := [name for name, value in options.items() if value and name not in self.reads]:
            param = unread[0] if unread[0] in _PARAMETERS else "chat_template_kwargs"
            raise invalid(f"the model's chat template does not read {unread[0]!r}", param, "unread_in_template")
        documents = options.get(DOCUMENTS_VARIABLE)

        def text(said: list[TemplateMessage], known: list[Any] | None, given: Any) -> str:
            variables = self.special | options | ({DOCUMENTS_VARIABLE: given} if given else {})
            # Templates that write documents as a tool's answers walk over the tools.
            none = [] if given else self.plain.none
            written = self.plain.written(in_tool_form(said, self.traits.form))
            return _rendered(self.source, written, known or none, variables, ending)

        try:
            written = text(messages, tools, documents)
        except TEMPLATE_ERRORS as error:
            raise invalid(f"the model's chat template refused the messages: {error}", "messages") from None
        if path := _lost(messages, tools, documents, text, written):
            reason = f"the model's chat template leaves out {path}: it would not know of it"
            raise invalid(reason, path.partition("[")[0], "lost_in_template")
        return written

    def _thinking(self, options: dict[str, Any]) -> dict[str, Any]:
        """The variables, with an effort said in the way of templates that know only whether to think at all."""
        effort = options.get(EFFORT_VARIABLE)
        if not effort or THINKING_VARIABLE not in self.reads:
            return options
        options = {THINKING_VARIABLE: effort != NO_EFFORT, **options}
        if effort == NO_EFFORT and EFFORT_VARIABLE not in self.reads:
            del options[EFFORT_VARIABLE]
        return options


class Templates:
    """The templates of one model, by name; none: it takes no chats.

    Attributes:
        notes: what an operator of the model should know, a sentence each.
        shows_tools: chats with tools are written with them.
        main_source: text of the template that most chats take, None if there is none.
    """

    def __init__(self, found: str | dict[str, Any] | None, special: dict[str, Any]) -> None:
        named = found if isinstance(found, dict) else {DEFAULT: found} if found else {}
        self._named = {name: ChatTemplate.probed(name, source, special) for name, source in named.items()}
        self.source = "\n".join(template.source for template in self._named.values())
        default = self._named.get(DEFAULT)
        self.main_source = default.source if default else None
        main = self._named.get(TOOL_USE) or default
        self.notes = main.traits.notes if main else ()
        self.shows_tools = bool(main and main.traits.shows_tools)
        if self._named and DEFAULT not in self._named:
            self.notes += (f"no chat template is named {DEFAULT!r}: chats without tools are refused",)

    def __bool__(self) -> bool:
        return bool(self._named)

    def reads(self, variable: str) -> bool:
        """Whether each of them reads a variable."""
        return bool(self) and all(variable in template.reads for template in self._named.values())

    def render(
        self,
        messages: list[TemplateMessage],
        tools: list[Any] | None,
        options: dict[str, Any],
        ending: Ending = Ending.ANSWER,
    ) -> str:
        """The text of a conversation, by the template that is for it. Raises ApiError."""
        if not self._named:
            raise invalid("this model has no chat template: use /v1/completions", "messages", "no_chat_template")
        default, tooled = self._named.get(DEFAULT), self._named.get(TOOL_USE)
        needs = bool(tools) or (has_tool_turns(messages) and not (default and default.traits.shows_calls))
        grounded = self._named.get(RAG)
        if grounded and options.get(DOCUMENTS_VARIABLE) and not needs:
            return grounded.render(messages, tools, options, ending)
        if tooled and needs:
            return tooled.render(messages, tools, options, ending)
        if not default:
            raise invalid("this model has no chat template for chats without tools", "messages", "no_default_template")
        return default.render(messages, tools, options, ending)


def template_of_processor(directory: Path) -> Any:
    """What ``chat_template.json`` holds, for tokenizers without a template; None if there is none.
    Raises TemplateInvalid."""
    file = directory / PROCESSOR_FILE
    try:
        found = json.loads(file.read_bytes())["chat_template"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise TemplateInvalid(f"{file} holds no chat template: {reason}") from None
    if isinstance(found, list):
        return {str(one.get("name")): one.get("template") for one in found if isinstance(one, dict)}
    return found


def _reads(source: str) -> frozenset[str]:
    """Names of the variables that a template reads, and perhaps of some that it sets itself."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(source).environment  # compiled once, and kept by transformers
    return frozenset(find_undeclared_variables(environment.parse(source)))


def _lost(
    messages: list[TemplateMessage], tools: list[Any] | None, documents: Any, text: RenderWithDocuments, written: str
) -> str | None:
    """The first tool, document, call or answer that is not in the text, as a path; None if all are there."""
    try:
        return lost_path(messages, tools, documents, text)
    except TEMPLATE_ERRORS:  # it looks at the names or arguments themselves: then at least those names must be there
        named = [(f"tools[{number}]", tool) for number, tool in enumerate(tools or ())]
        for number, message in enumerate(messages):
            calls = enumerate(message.get("tool_calls") or ())
            named += [(f"messages[{number}].tool_calls[{place}]", call) for place, call in calls]
        return next((path for path, one in named if _name(one) not in written), None)


def _name(one: Any) -> str:
    """The name of a tool or of a call, empty if there is none."""
    function = one.get("function") if isinstance(one, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _rendered(
    source: str,
    messages: list[TemplateMessage],
    tools: list[Any] | None,
    variables: dict[str, Any],
    ending: Ending = Ending.ANSWER,
) -> str:
    """What transformers' own renderer makes of it. (Not through the tokenizer's method, which takes a message's
    ``content: null`` away: some templates ask whether it is null.)"""
    from transformers.utils.chat_template_utils import (
        render_jinja_template,
    )  # slow to import: paid only where a model is loaded

    texts, _ = render_jinja_template(
        conversations=[messages],
        tools=tools,
        chat_template=source,
        add_generation_prompt=ending is Ending.ANSWER,
        continue_final_message=ending is Ending.WITHIN,
        **variables,
    )
    return str(texts[0])
