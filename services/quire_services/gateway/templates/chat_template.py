"""Prompts: text and chat messages to token ids, with the model's own tokenizer and chat template.

Everything that turns words into tokens goes through ``PromptEncoder`` - requests and published prompts alike -
because one token of difference and nothing is shared.

Invariants: the tokenizer is the tokenizers library's (``backend``); truncation and padding are off; after loading it
is only read, so the event loop may decode while another thread encodes.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

from quire_engine.checkpoint.refusal import first_line
from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.text.prompt_cache import PromptCache, token_ids
from quire_services.gateway.text.spelled_tokens import SpelledTokens
from quire_services.gateway.text.tokenizer_file import own_tokenizer
from quire_services.gateway.tools.format_choice import UnknownFormat
from quire_services.gateway.tools.model_answers import ModelAnswers

from .canonical_tools import canonical_tools
from .content_parts import text_of
from .model_templates import DOCUMENTS_VARIABLE, Ending, TemplateInvalid, Templates, template_of_processor

PROMPT_END_TOKENS = 16


class LoadError(Exception):
    """The model's directory has no usable tokenizer; the message says why."""


class PromptEncoder:
    """Tokenizer and chat templates of one model.

    Args:
        tokenizer: as transformers loads it.
        backend: the ``tokenizers.Tokenizer`` to use instead of its own.
        spelled_as_text: a special token that a message spells is encoded as text.
        tool_parser: name of the format of the model's tool calls; None: it is found out.

    Attributes:
        canonical: the template sees tools in their canonical form, not as they were sent.
        answers: how the model's answers are read.
        backend: the ``tokenizers.Tokenizer``, for decoding.
        end_ids: tokens that end an answer, as the tokenizer has it.
        notes: what an operator of the model should know, a sentence each.
    """

    def __init__(
        self,
        tokenizer: Any,
        backend: Any = None,
        spelled_as_text: bool = True,
        tool_parser: str | None = None,
        canonical: bool = False,
    ) -> None:
        self.backend: Any = backend or tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self._prompt_cache = PromptCache(self.backend)
        self._special = dict(tokenizer.special_tokens_map)
        try:
            self._templates = Templates(tokenizer.chat_template, self._special)
        except TemplateInvalid as error:
            raise LoadError(str(error)) from None
        self._spelled = SpelledTokens(self.backend, self._templates.source)
        self._spelled_as_text = spelled_as_text
        self.canonical = canonical
        end = self.backend.token_to_id(str(tokenizer.eos_token)) if tokenizer.eos_token else None
        self.end_ids = frozenset() if end is None else frozenset({int(end)})
        self.notes: tuple[str, ...] = self._templates.notes
        # Names that are arguments of transformers' renderer and so cannot be variables of the template.
        arguments = inspect.signature(tokenizer.apply_chat_template).parameters
        self._reserved = {"messages", "conversations", *arguments} - {DOCUMENTS_VARIABLE}
        self.answers = self._model_answers(getattr(tokenizer, "response_template", None), tool_parser)

    def _model_answers(self, declared: Any, name: str | None) -> ModelAnswers:
        """How the model writes; raises LoadError if it cannot be as ``name`` has it."""
        try:
            found = ModelAnswers.of(self.backend, self.render, (ApiError,), self._templates.source, declared, name)
        except UnknownFormat as error:
            raise LoadError(f"no tool parser of this name: {error}") from None
        if name and not found.calls:
            raise LoadError(f"no tool parser {name!r}: the tokenizer declares no calls in a response_template")
        return found

    @classmethod
    def load(
        cls, model: Path, spelled_as_text: bool = True, tool_parser: str | None = None, canonical: bool = False
    ) -> PromptEncoder:
        """Read the tokenizer of a model's directory; raises LoadError."""
        from transformers import (
            AutoTokenizer,
            PreTrainedTokenizerFast,
        )  # slow to import: paid only where a model is loaded

        if not _is_directory(model):
            raise LoadError(f"{model} is not a directory")
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
        except Exception as error:  # of any kind: transformers and tokenizers trust what these files say
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise LoadError(f"cannot load the tokenizer of {model}: {reason}") from None
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise LoadError(f"the tokenizer of {model} has no tokenizer.json form")
        as_the_file = type(tokenizer) is PreTrainedTokenizerFast  # that class reads it, others build rules of their own
        try:
            tokenizer.chat_template = tokenizer.chat_template or template_of_processor(model)
            own = None if as_the_file else own_tokenizer(model, tokenizer.backend_tokenizer)
            encoder = cls(tokenizer, own, spelled_as_text, tool_parser, canonical)
        except TemplateInvalid as error:
            raise LoadError(str(error)) from None
        except LoadError as error:
            raise LoadError(f"{model}: {error}") from None
        except Exception as error:  # what could be loaded may still not encode
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise LoadError(f"cannot use the tokenizer of {model}: {reason}") from None
        if own is not None:
            encoder.notes += ("transformers makes other tokens of some texts than tokenizer.json, which is followed",)
        return encoder

    def with_template(self, source: str) -> PromptEncoder:
        """The same with another chat template. What it takes to try a stranger's is not bounded here. Raises
        ApiError."""
        other = copy(self)
        try:
            other._templates = Templates(source, self._special)
        except TemplateInvalid as error:
            raise invalid(str(error), "chat_template") from None
        other._spelled = SpelledTokens(self.backend, source)
        return other

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens (a leading ``<bos>``, say) are added as the tokenizer is configured.
        Raises ApiError for text that is not Unicode."""
        _insist_on_unicode(text)
        return token_ids(self.backend, text, add_special_tokens=add_special_tokens)

    def encode_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None,
        options: dict[str, Any] | None,
        tenant: str | None,
        add_special_tokens: bool = False,
        ending: Ending = Ending.ANSWER,
    ) -> list[int]:
        """Token ids of a tenant's conversation, up to its ``ending``; nothing of it is kept for a tenant that is None.
        ``add_special_tokens``: those of the tokenizer, too, beside the template's. Raises ApiError."""
        if self._spelled_as_text and self._spelled.usable and self._spelled.found(messages, tools, options):
            text = self.render_sealed(messages, tools, options, ending)
            _insist_on_unicode(text)
            ids = self._spelled.encode(text, tenant)
            return self._around(ids) if add_special_tokens else ids
        text = self.render(messages, tools, options, ending)
        if add_special_tokens:
            return self.encode(text)
        _insist_on_unicode(text)
        return self._prompt_cache.encode(text, tenant)

    def _around(self, ids: list[int]) -> list[int]:
        """These tokens with those around them that the tokenizer puts around every text."""
        bare = self.encode("a", add_special_tokens=False)
        whole = self.encode("a")
        begin = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
        return [*whole[:begin], *ids, *whole[begin + len(bare) :]]

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None = None,
        options: dict[str, Any] | None = None,
        ending: Ending = Ending.ANSWER,
    ) -> str:
        """The text of a conversation; ``options`` are variables of the template. Raises ApiError."""
        if reserved := self._reserved & set(options or {}):
            raise invalid(f"{sorted(reserved)[0]!r} cannot be set", "chat_template_kwargs")
        return self._templates.render(messages, self.shown_tools(tools), options or {}, ending)

    def shown_tools(self, tools: list[Any] | None) -> list[Any] | None:
        """Tools as the template sees them."""
        return canonical_tools(tools) if tools and self.canonical else tools

    def render_sealed(
        self,
        messages: list[dict[str, Any]],
        tools: list[Any] | None = None,
        options: dict[str, Any] | None = None,
        ending: Ending = Ending.ANSWER,
    ) -> str:
        """``render``, with the template's special tokens told apart from those that messages spell; for
        ``encode_sealed`` alone. Raises ApiError."""
        if not self._spelled.usable:
            return self.render(messages, tools, options, ending)
        try:
            said, known, given = (self._spelled.hidden(value) for value in (messages, tools, options))
        except RecursionError:
            raise invalid("the messages nest too deeply", "messages") from None
        return self._spelled.sealed(self.render(said, known, given, ending))

    def encode_sealed(self, text: str) -> list[int]:
        """Token ids of a sealed text: what messages spell is text, the template's special tokens are special.
        Raises ApiError."""
        if not self._spelled.usable:
            return self.encode(text, add_special_tokens=False)
        _insist_on_unicode(text)
        return self._spelled.encode(text, None)

    def about(self) -> dict[str, Any]:
        """The special tokens by their roles, and the chat template: what a client may render prompts with."""
        special = {role: spelling for role, spelling in self._special.items() if isinstance(spelling, str)}
        return special | {"chat_template": self._templates.main_source}

    @property
    def shows_tools(self) -> bool:
        """Whether the template writes the tools that it is given."""
        return self._templates.shows_tools

    @property
    def chats(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self._templates)

    def reads(self, variable: str) -> bool:
        """Whether the template reads a variable, whichever of several it is."""
        return self._templates.reads(variable)

    @property
    def writes_the_date(self) -> bool:
        """Whether the template may write today's date: the same messages are other tokens tomorrow."""
        return "strftime_now" in self._templates.source

    def end_of(self, prompt: Sequence[int]) -> str:
        """The end of a prompt's text, which may have begun the answer's reasoning."""
        return self.decode(list(prompt[-PROMPT_END_TOKENS:]))

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, special ones included."""
        return str(self.backend.decode(tokens, skip_special_tokens=False))


def template_message(message: dict[str, Any], where: str) -> dict[str, Any]:
    """A message of the API as it goes to a template: content as text, nothing that says nothing (null, empty lists).
    Raises ApiError."""
    out = {key: value for key, value in message.items() if value is not None and value != []}
    out["content"] = text_of(message.get("content"), where)
    if out.get("role") == "developer":  # the API's newer name of the role that templates know as system
        out["role"] = "system"
    for place, call in enumerate(message.get("tool_calls") or ()):
        _check_call(call, f"{where}.tool_calls[{place}]")
    return out


def without_torch() -> None:
    """Keep transformers from importing torch in this process: tokenizing needs none of it, and it costs a second
    and 200 MB. ``None`` in ``sys.modules`` is how Python spells "not importable". Call before the first import."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install torch
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time; and processes are forked


def log_like_everyone() -> None:
    """Send what transformers logs the way of all other logs, instead of to a handler of its own."""
    from transformers.utils import logging

    logging.disable_default_handler()
    logging.enable_propagation()


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long to be one
        return False


def _insist_on_unicode(text: str) -> None:
    """Raise ApiError for half of a surrogate pair, which JSON can spell and which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid("the text is not valid Unicode: it has half of a surrogate pair") from None


def _check_call(call: dict[str, Any], where: str) -> None:
    """Raise ApiError for a call that has no function, or arguments that are not JSON."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise invalid("a tool call needs a function with a name", where)
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        try:
            json.loads(arguments)
        except (ValueError, RecursionError):
            raise invalid("the arguments of a tool call must be JSON", f"{where}.function.arguments") from None
