"""Generate: the way of a request from its body to its answer, the same for all APIs.

    body -> checks -> prompts -> token ids -> generations -> engines -> answer

Short bodies are read in this loop, for some milliseconds between two looks at the sockets, tenants in turn; longer
ones, and those that take a grammar, in processes of their own (``reader_pool``), because what reads them holds the
interpreter's lock. Either way a tenant's stream waits a few milliseconds at most for what others send.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from quire_engine.checkpoint.token_bytes import TokenBytes
from quire_services.config.settings import MAX_BODY_BYTES
from quire_services.gateway.anthropic.api_errors import check_version
from quire_services.gateway.anthropic.bodies import MessageChat
from quire_services.gateway.anthropic.message_answer import MessageAnswer
from quire_services.gateway.http.client_timeout import client_timeout_s
from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.http.hang_up import until_gone
from quire_services.gateway.http.request_log import RequestRecord
from quire_services.gateway.openai.answers.call_choices import CallChoices, unhurried
from quire_services.gateway.openai.answers.choice_answer import ChoiceAnswer, ChoiceShape
from quire_services.gateway.openai.bodies import Body, ChatBody, CompletionBody
from quire_services.gateway.openai.branches.beam_search import beam_search
from quire_services.gateway.openai.branches.best_of import ranked
from quire_services.gateway.openai.chat import ChatShape
from quire_services.gateway.openai.completions import CompletionShape
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.logits.adjustments import adjustments
from quire_services.gateway.openai.logits.bad_words import bad_words
from quire_services.gateway.openai.logits.prompt_scores import scored
from quire_services.gateway.openai.parameters import CHAT, PLAIN, RESPONSES
from quire_services.gateway.openai.response_api.response_answer import RESPONSE, ResponseAnswer
from quire_services.gateway.openai.response_api.response_chat import in_own_words
from quire_services.gateway.openai.response_api.response_lookup import keeper, looked_up
from quire_services.gateway.openai.response_api.response_request import Lookup
from quire_services.gateway.openai.response_api.response_store import ResponseStore
from quire_services.gateway.openai.sampling import sampling, stop_strings
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults
from quire_services.gateway.published_prompts.recent_preambles import RecentPreambles
from quire_services.gateway.readers.prompt_answers import prompt_answer_here
from quire_services.gateway.readers.reader_pool import LookupUpTo, ReaderPool
from quire_services.gateway.readers.request_bytes import (
    SHORT_BODY_BYTES,
    RequestBytes,
    default_limit,
)
from quire_services.gateway.readers.request_reader import MESSAGES, ReadRequest, RequestReader
from quire_services.gateway.spans.inference_span import begin_inference_span, end_inference_span
from quire_services.gateway.templates.chat_template import PromptEncoder
from quire_services.gateway.text.end_tokens import EndTokens
from quire_services.gateway.turns.follower_word import FollowerWord
from quire_services.gateway.turns.shares import Shares

from .api_keys import ApiKeys
from .backlog import Backlogs
from .counters import Counters
from .engines import Engines
from .generations import Call
from .responses import Answer, CallResponse

Raw = bytes | bytearray
_Result = TypeVar("_Result")
_Here = Callable[[str, Raw, str, Callable[[], Limits], Lookup], _Result | None]
_Elsewhere = Callable[[str, Raw, str, Limits, LookupUpTo], Coroutine[Any, Any, _Result]]
MAX_TURN_S = 0.005
SHORT_WAITING, SHORT_WAIT_S = 1 << 20, 60.0  # short bodies are bounded by connections, and wait milliseconds


@dataclass(slots=True)
class Gateway:
    """All that a request needs.

    Attributes:
        models: names of the model in the API, its own and aliases.
        defaults: what stands in for parameters that requests leave out.
        stored: responses that may be gone on from.
        follower: what the node's follower of declarations says, where it has one.
        max_body_bytes, ping_s, begin_s: as in ``settings``.
    """

    models: tuple[str, ...]
    encoder: PromptEncoder
    engines: Engines
    api_keys: ApiKeys
    reader: RequestReader
    readers: ReaderPool
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    stored: ResponseStore = field(default_factory=ResponseStore)
    recent: RecentPreambles = field(default_factory=lambda: RecentPreambles(0))
    max_body_bytes: int = 0
    ping_s: float = 0
    begin_s: float = 600
    backlogs: Backlogs = field(default_factory=Backlogs)
    counters: Counters = field(default_factory=Counters)
    follower: FollowerWord = field(default_factory=FollowerWord)
    created: int = field(default_factory=lambda: int(time.time()))
    bytes: RequestBytes = field(default_factory=RequestBytes)
    names: TokenBytes = field(init=False)
    ends: EndTokens = field(init=False)
    _choices: CallChoices = field(init=False)
    _turn: Shares = field(init=False)
    _spent_s: float = 0.0

    def __post_init__(self) -> None:
        self._turn = Shares(1, 1, most_waiting=SHORT_WAITING, wait_s=SHORT_WAIT_S)
        self.names = TokenBytes(self.encoder.backend)
        self.ends = EndTokens(self.encoder.backend, self.encoder.end_ids | self.defaults.end_ids)
        self._choices = CallChoices(self.encoder, self.ends)

    async def chat(self, request: Request) -> Response:
        """Answer ``/v1/chat/completions``. Raises ApiError and ClientGone."""
        async with self._read(CHAT, request) as read:
            body = read.body
            assert isinstance(body, ChatBody)
            call = await self._call(read, request, (body.top_logprobs or 0) + 1 if body.logprobs else 0)
            one = call.generations[0]
            shape = ChatShape(
                body, self.names, read.prompts[0], "".join(read.texts), lambda: one.prompt_logprobs, read.echo
            )
        return await self._respond(call, body, request, self._choice_answer(shape, body, request))

    async def complete(self, request: Request) -> Response:
        """Answer ``/v1/completions``. Raises ApiError and ClientGone."""
        async with self._read(PLAIN, request) as read:
            body = read.body
            assert isinstance(body, CompletionBody)
            call = await self._call(read, request, 0 if body.logprobs is None else body.logprobs + 1)
            of = call.generations
            shape = CompletionShape(
                body, self.names, read.texts, read.prompts, lambda prompt: of[prompt].prompt_logprobs
            )
        return await self._respond(call, body, request, self._choice_answer(shape, body, request))

    async def message(self, request: Request) -> Response:
        """Answer ``/v1/messages``. Raises ApiError and ClientGone."""
        check_version(request.headers)
        async with self._read(MESSAGES, request) as read:
            body = read.body
            assert isinstance(body, MessageChat)
            call = await self._call(read, request, 0)
        return await self._respond(call, body, request, MessageAnswer(body, _record(request)))

    async def tell_prompt(self, api: str, request: Request) -> Response:
        """Answer a request of one of ``PROMPT_APIS``. Raises ApiError and ClientGone."""
        here, elsewhere = partial(prompt_answer_here, self.reader), self.readers.prompt_answer
        async with self._taken_in(api, request, here, elsewhere) as told:
            return Response(told, media_type="application/json")

    async def respond(self, request: Request) -> Response:
        """Answer ``/v1/responses``. Raises ApiError and ClientGone."""
        record = _record(request)
        async with self._read(RESPONSES, request) as read:
            body, draft = read.body, read.draft
            assert isinstance(body, ChatBody)
            assert draft is not None
            keep = keeper(self.stored, record.tenant, RESPONSE + record.id_suffix, draft)
            try:
                call = await self._call(read, request, (body.top_logprobs or 0) + 1 if body.logprobs else 0)
            except ApiError as error:
                raise in_own_words(error) from None
        try:
            return await self._respond(call, body, request, ResponseAnswer(body, draft, record, self.names, keep))
        except ApiError as error:
            raise in_own_words(error) from None

    @asynccontextmanager
    async def _read(self, api: str, request: Request) -> AsyncIterator[ReadRequest]:
        """A request as it was read."""
        async with self._taken_in(api, request, self.reader.read_here, self.readers.read) as read:
            record = _record(request)
            self.recent.keep(record.tenant, record.request_id, read.preamble)
            yield read

    @asynccontextmanager
    async def _taken_in(
        self, api: str, request: Request, here: _Here[_Result], elsewhere: _Elsewhere[_Result]
    ) -> AsyncIterator[_Result]:
        """What becomes of a request's body: ``here``, in this loop, unless that is None or the body is long, else
        ``elsewhere``, in a reader."""
        tenant, span, began = _record(request).tenant, _record(request).span, time.monotonic()
        async with self.bytes.of(request, tenant, self._most_bytes) as raw:
            if self.engines.why_not():
                await until_gone(request.receive, self.engines.expected(tenant))
            made: _Result | None = None
            if len(raw) <= SHORT_BODY_BYTES:
                lookup = partial(looked_up, self.stored, tenant, self._most_bytes, SHORT_BODY_BYTES)
                made = await self._in_turn(tenant, lambda: here(api, raw, tenant, self._limits, lookup))
            if made is None:
                lookup_up_to = partial(looked_up, self.stored, tenant, self._most_bytes)
                made = await until_gone(request.receive, elsewhere(api, raw, tenant, self._limits(), lookup_up_to))
            if span is not None:
                span.child("read", attributes={"quire.body_bytes": len(raw)}, at=began).end()
            yield made

    async def _in_turn(self, tenant: str, work: Callable[[], _Result]) -> _Result:
        """What some milliseconds of work in this loop give, when it is the tenant's turn."""
        await self._turn.acquire(tenant, 1)
        began = time.monotonic()
        try:
            return work()
        finally:
            self._release_turn(tenant, time.monotonic() - began)

    def _release_turn(self, tenant: str, spent_s: float) -> None:
        """Let the next short body be read: now, or after a look at the sockets if reading has taken a while."""
        self._spent_s += spent_s
        if self._spent_s < MAX_TURN_S:
            self._turn.release(tenant, 1)
        else:
            self._spent_s = 0.0
            asyncio.get_running_loop().call_soon(self._turn.release, tenant, 1)

    def _limits(self) -> Limits:
        return self.engines.limits()

    def _most_bytes(self) -> int:
        """Of a body."""
        if self.max_body_bytes:
            return self.max_body_bytes
        return MAX_BODY_BYTES if self.engines.why_not() else default_limit(self._limits().max_model_len)

    async def _call(self, read: ReadRequest, request: Request, logprobs: int) -> Call:
        """The generations of a request, not yet sent."""
        record, body, limits = _record(request), read.body, read.limits
        param = "messages" if isinstance(body, ChatBody) else "prompt"
        constraint, identity = read.constraint, record.request_id
        param_of, bound = (constraint.param, constraint.binds) if constraint else ("", False)
        call = Call(self.backlogs, param_of, bound, identity, arrived=record.arrived, follower=self.follower)
        adjusted = adjustments(body, limits, self.defaults) | beam_search(body)
        if ranked(body) > (body.n or 1):
            logprobs = max(1, logprobs)
        adjusted["prompt_logprobs"] = scored(body)
        adjusted["bad_words"] = bad_words(body.bad_words, self.encoder, limits.vocab_size)
        adjusted["grammar"] = constraint.text.encode() if constraint else b""
        adjusted["likely_grammar"] = constraint.likely.encode() if constraint else b""
        async for tokens in unhurried(read.prompts):
            how = sampling(body, len(tokens), logprobs, limits, param, self.defaults)
            how = replace(self.ends.added(how, stop_strings(body), limits.vocab_size), **adjusted)
            call.add(record.tenant, tokens, how, ranked(body), body.cache_salt or "", body.priority or 0)
        return call

    async def _respond(self, call: Call, body: Body, request: Request, answer: Answer) -> Response:
        record = _record(request)
        choices = await self._choices.of(body, call.generations, self.engines.eos_token_ids())
        record.prompt_tokens = sum(len(generation.tokens) for generation in call.generations)
        call.span = begin_inference_span(record, body, call.generations[0].sampling)
        try:
            self.engines.submit(call)
        except ApiError as error:
            if call.span is not None:
                end_inference_span(call.span, record, (), error)
            raise
        if not body.use_beam_search:  # a search says nothing before its end
            begin_s = min(self.begin_s, client_timeout_s(request.headers))
            call.begin_within(begin_s, time.monotonic() - record.arrived)
        record.generates = True
        record.engines = ",".join(call.engines)
        response = CallResponse(call, choices, answer, record, self.ping_s, long=scored(body) > 0)
        return await response.send_to(request.receive, bool(body.stream))

    def _choice_answer(self, shape: ChoiceShape, body: Body, request: Request) -> ChoiceAnswer:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        counted = with_usage and bool(body.stream_options and body.stream_options.continuous_usage_stats)
        branches = (ranked(body), body.n or 1)
        return ChoiceAnswer(shape, body.model, _record(request), with_usage, counted, branches)


def _record(request: Request) -> RequestRecord:
    """What the edge keeps of a request."""
    record: RequestRecord = request.scope["record"]
    return record
