"""Request reader: the bytes of a body to a checked request with its prompts as token ids, for each API.

    bytes -> JSON -> counts -> types -> what is served -> template -> tokens

The same code reads short bodies in the gateway's loop and long ones in a process of their own (``reader_process``): it
knows neither engines nor connections, and asks for what is kept of earlier responses (``Lookup``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from quire_services.gateway.anthropic.bodies import MessagesBody, PromptBody
from quire_services.gateway.anthropic.chat_request import chat_request
from quire_services.gateway.http.errors import ApiError, invalid, unknown_model
from quire_services.gateway.http.own_words import placed
from quire_services.gateway.openai.bodies import Body, ChatBody, CompletionBody
from quire_services.gateway.openai.branches.beam_search import check_beam_search
from quire_services.gateway.openai.branches.best_of import check_best_of, generated
from quire_services.gateway.openai.chat import chat_echo, chat_tokens, check_chat
from quire_services.gateway.openai.completions import MAX_CHOICES, check_completion, prompt_tokens, prompts
from quire_services.gateway.openai.constraints.constraint import Constraint, chat_constraint, completion_constraint
from quire_services.gateway.openai.constraints.content_fields import asks_for_grammar
from quire_services.gateway.openai.json_body import parse_json, validated
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.logits.prompt_scores import check_scored
from quire_services.gateway.openai.parameters import CHAT, PLAIN, RESPONSES
from quire_services.gateway.openai.response_api.response_body import ResponseBody
from quire_services.gateway.openai.response_api.response_chat import in_own_words
from quire_services.gateway.openai.response_api.response_draft import ResponseDraft
from quire_services.gateway.openai.response_api.response_lookup import TooLong
from quire_services.gateway.openai.response_api.response_parameters import refuse_in_response
from quire_services.gateway.openai.response_api.response_request import Lookup, ResponseRequest, response_request
from quire_services.gateway.openai.sampling import (
    check_prompt,
    refuse_unsupported,
    room_for_prompt,
    stop_strings,
    truncated_prompt,
)
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults
from quire_services.gateway.published_prompts.preamble import packed_preamble
from quire_services.gateway.templates.chat_template import PromptEncoder

from .element_counts import check_elements
from .time_limit import time_limit

MESSAGES, COUNT, INPUT_TOKENS = "messages", "count_tokens", "input_tokens"
MAX_ECHOED = 4 << 20  # characters or tokens of prompts that are sent back, over all choices
MAX_TEMPLATE_S = 10  # for a template that a request brings, to be tried and rendered
MAX_GRAMMARS = 4 << 20  # characters of a grammar, over all prompts: each goes to an engine with it
NO_TEMPLATES = (
    "'chat_template' is not taken from requests here; leave it out, or have the gateway started with"
    " --trust-request-chat-template"
)


@dataclass(slots=True)
class ReadRequest:
    """A request ready for the engines.

    Attributes:
        body: it may have lost its prompt.
        prompts: token ids of each.
        limits: that it was checked against.
        texts: the prompts as text, if they are to be sent back.
        echo: what the answers to a chat begin with.
        draft: of a response, what is needed when it is answered.
        constraint: what its answers are held to.
        preamble: what a chat begins with (``packed_preamble``), if that is kept.
    """

    body: Body
    prompts: Sequence[Sequence[int]]
    limits: Limits
    texts: list[str] = field(default_factory=list)
    echo: str = ""
    draft: ResponseDraft | None = None
    constraint: Constraint | None = None
    preamble: str = ""


class RequestReader:
    """Reads requests for one model.

    Args:
        models: its names in the API, its own first.
        encoder: its tokenizer and template.
        defaults: what stands in for parameters that requests leave out.
        own_templates: requests may bring chat templates.
        with_preambles: what chats begin with is kept.
    """

    def __init__(
        self,
        models: Sequence[str],
        encoder: PromptEncoder,
        defaults: SamplingDefaults,
        own_templates: bool = False,
        with_preambles: bool = False,
    ) -> None:
        self._models, self.encoder, self._defaults = models, encoder, defaults
        self._own_templates, self._with_preambles = own_templates, with_preambles

    def read(
        self, api: str, raw: bytes | bytearray, tenant: str, limits: Callable[[], Limits], lookup: Lookup
    ) -> ReadRequest:
        """Read a body of an API (``CHAT``, ``PLAIN``, ``RESPONSES``, ``MESSAGES``; ``COUNT`` and ``INPUT_TOKENS`` for
        the prompt alone of the latter two). Raises ApiError, also what ``limits`` and ``lookup`` raise."""
        return self._read(api, parse_json(raw), tenant, limits, lookup)

    def read_here(
        self, api: str, raw: bytes | bytearray, tenant: str, limits: Callable[[], Limits], lookup: Lookup
    ) -> ReadRequest | None:
        """The same in the gateway's loop; None for what takes too long for it: a long conversation, one that may have
        to be truncated, a chat with a template of its own, and an answer that takes a grammar."""
        document = parse_json(raw)
        if isinstance(document, dict) and (asks_for_grammar(document) or _may_be_truncated(api, document)):
            return None
        if api == CHAT and self.brings_template(document):
            return None
        try:
            return self._read(api, document, tenant, limits, lookup)
        except TooLong:
            return None

    def brings_template(self, document: Any) -> bool:
        """Whether a chat has a template of its own, and may: it is not for the gateway's loop."""
        return self._own_templates and isinstance(document, dict) and bool(document.get("chat_template"))

    def _read(self, api: str, document: Any, tenant: str, limits: Callable[[], Limits], lookup: Lookup) -> ReadRequest:
        if isinstance(document, dict):
            check_elements(document)
        if api == PLAIN:
            read = self._completion(document, limits)
        elif api == CHAT:
            read = self.chat(validated(ChatBody, document), tenant, limits)
        elif api in (RESPONSES, INPUT_TOKENS):
            read = self._response(document, tenant, limits, lookup, fits=api == RESPONSES)
        else:
            read = self._message(validated(MessagesBody if api == MESSAGES else PromptBody, document), tenant, limits)
        _check_sent_back(read)
        if self._with_preambles and isinstance(read.body, ChatBody):
            read.preamble = packed_preamble(read.body)
        return read

    def _message(self, asked: PromptBody, tenant: str, limits: Callable[[], Limits]) -> ReadRequest:
        request = chat_request(asked, self.encoder)
        try:
            read = self.chat(request.chat, tenant, limits, fits=isinstance(asked, MessagesBody))
        except ApiError as error:
            raise placed(error, request.places) from None
        if isinstance(asked, MessagesBody) and len(read.prompts[0]) + asked.max_tokens > read.limits.max_model_len:
            request.chat.max_tokens = -1
        return read

    def _response(
        self, document: Any, tenant: str, limits: Callable[[], Limits], lookup: Lookup, *, fits: bool
    ) -> ReadRequest:
        if isinstance(document, dict) and not fits:
            document.setdefault("model", self.known_model(None))
        body = validated(ResponseBody, document)
        self.known_model(body.model)
        refuse_in_response(body)
        request = response_request(body, lookup, self._defaults)
        try:
            if body.truncation == "auto":
                self._truncate(request, tenant, limits())
            read = self.chat(request.chat, tenant, limits, fits=fits)
        except ApiError as error:
            raise in_own_words(error, request.conversation.places) from None
        read.draft = request.draft
        return read

    def _truncate(self, request: ResponseRequest, tenant: str, limits: Limits) -> None:
        chat = request.chat
        check_chat(chat, self.encoder)
        room = room_for_prompt(chat, limits, self._defaults)
        request.truncate(
            lambda left: len(chat_tokens(chat.model_copy(update={"messages": left}), self.encoder, tenant)) <= room
        )

    def chat(self, body: ChatBody, tenant: str, limits: Callable[[], Limits], *, fits: bool = True) -> ReadRequest:
        """A chat with its prompt, which need not leave room for an answer unless it ``fits``. Raises ApiError."""
        found = self._admit(body, CHAT, limits)
        with self._encoder_of(body) as encoder:
            check_chat(body, encoder)
            tokens = truncated_prompt(chat_tokens(body, encoder, tenant), body, found, self._defaults)
        constraint = None
        if fits:
            check_prompt(tokens, found, "messages")
            constraint = chat_constraint(body, self.encoder, tokens)
        text = [self.encoder.decode(list(tokens))] if body.return_prompt_text else []
        return ReadRequest(body, [tokens], found, text, chat_echo(body) if body.echo else "", constraint=constraint)

    @contextmanager
    def _encoder_of(self, body: ChatBody) -> Iterator[PromptEncoder]:
        """The model's encoder, or one with the template that the body brings, for as long as that may take; for
        the main thread of a process that may be ended. Raises ApiError."""
        if body.chat_template is None:
            yield self.encoder
            return
        if not self._own_templates:
            raise invalid(NO_TEMPLATES, "chat_template", "unsupported_parameter")
        slow = f"'chat_template' takes more than {MAX_TEMPLATE_S} seconds to be tried and rendered"
        try:
            with time_limit(MAX_TEMPLATE_S, invalid(slow, "chat_template")):
                yield self.encoder.with_template(body.chat_template)
        except (ApiError, MemoryError):
            raise
        except Exception as error:  # of any kind: a stranger wrote it
            raise invalid(f"'chat_template' fails: {type(error).__name__}", "chat_template") from None

    def _completion(self, document: Any, limits: Callable[[], Limits]) -> ReadRequest:
        body = validated(CompletionBody, document)
        found = self._admit(body, PLAIN, limits)
        check_completion(body)
        given = prompts(body.prompt)
        if len(given) * generated(body) > MAX_CHOICES:
            raise invalid(f"at most {MAX_CHOICES} choices in one request", "prompt")
        batch = prompt_tokens(given, self.encoder, body.add_special_tokens is not False)
        left = [truncated_prompt(tokens, body, found, self._defaults) for tokens in batch]
        for tokens in left:
            check_prompt(tokens, found, "prompt")
        echoes = self._echoes(given, batch, left) if body.echo else []
        constraint = completion_constraint(body)
        if constraint and len(constraint.text) * len(left) > MAX_GRAMMARS:
            raise invalid(f"{constraint.param!r} is too long for so many prompts", constraint.param)
        return ReadRequest(body, left, found, echoes, constraint=constraint)

    def _echoes(self, given: list[str | list[int]], batch: list[list[int]], left: list[Sequence[int]]) -> list[str]:
        """What to echo of each prompt: its text as it came, or that of the tokens that came or were left of it."""
        rows = zip(given, batch, left, strict=True)
        return [
            prompt if isinstance(prompt, str) and len(kept) == len(tokens) else self.encoder.decode(list(kept))
            for prompt, tokens, kept in rows
        ]

    def known_model(self, name: str | None) -> str:
        """The model that a request means, if it need not name one. Raises ApiError 404."""
        if name is not None and name not in self._models:
            raise unknown_model(name)
        return name or self._models[0]

    def _admit(self, body: Body, api: str, limits: Callable[[], Limits]) -> Limits:
        """Checks that need no tokens; what the engines can take."""
        self.known_model(body.model)
        refuse_unsupported(body, api)
        stop_strings(body)
        check_best_of(body)
        check_beam_search(body)
        return limits()


def _may_be_truncated(api: str, document: dict[str, Any]) -> bool:
    return api in (RESPONSES, INPUT_TOKENS) and document.get("truncation") == "auto"


def _check_sent_back(read: ReadRequest) -> None:
    """Raise ApiError for prompts that would be sent back too often."""
    body = read.body
    times = body.n or 1 if isinstance(body, CompletionBody) else 1
    check_scored(body, sum(map(len, read.prompts)) * times)
    much = sum(map(len, read.texts)) + (sum(map(len, read.prompts)) if body.return_token_ids else 0)
    if much * times + len(read.echo) * (body.n or 1) > MAX_ECHOED:
        raise invalid(f"more than {MAX_ECHOED} characters or tokens of prompts would be sent back")
