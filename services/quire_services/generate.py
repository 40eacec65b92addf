"""Generate: the way of a request from its body to its answer, the same for both APIs.

    body -> checks -> prompts -> token ids -> generations -> engines -> answer

Long texts are encoded on a thread of their own, one at a time, so that a prompt of a megabyte does not hold up every
stream; short ones are not worth the hop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from quire_proto.packed import unpack

from .answers import Answer, Shape
from .backlog import Backlogs
from .chat_template import PromptEncoder
from .choices import Choice
from .counters import Counters
from .detokenize import Detokenizer
from .end_tokens import EndTokens
from .engines import Engines, Limits
from .errors_http import invalid, unknown_model
from .keys import Keys
from .openai_chat import ChatShape, chat_tokens, check_chat
from .openai_completions import MAX_CHOICES, CompletionShape, check_completion, prompt_tokens, prompts
from .openai_params import check_prompt, refuse_unsupported, sampling, stop_strings, truncated
from .openai_types import Body, ChatBody, CompletionBody
from .parameters import CHAT, PLAIN
from .record import Record
from .sampling_defaults import SamplingDefaults
from .streams import Call
from .token_bytes import TokenBytes

LONG_BODY_BYTES = 8192
COMPLETION_TOKENS = 16  # OpenAI's default for plain completions
T = TypeVar("T")


@dataclass(slots=True)
class Gateway:
    """All that a request needs: ``model`` is the name in the API, ``otherwise`` holds what requests leave unsaid, and
    ``ping_s`` is as in ``settings``."""

    model: str
    encoder: PromptEncoder
    engines: Engines
    keys: Keys
    otherwise: SamplingDefaults = field(default_factory=SamplingDefaults)
    ping_s: float = 0
    backlogs: Backlogs = field(default_factory=Backlogs)
    counters: Counters = field(default_factory=Counters)
    created: int = field(default_factory=lambda: int(time.time()))
    encoding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "encode"))
    names: TokenBytes = field(init=False)
    ends: EndTokens = field(init=False)

    def __post_init__(self) -> None:
        self.names = TokenBytes(self.encoder.backend)
        self.ends = EndTokens(self.encoder.backend, self.encoder.end_ids | self.otherwise.end_ids)

    async def chat(self, body: ChatBody, request: Request) -> Response:
        """Answer ``/v1/chat/completions``. Raises ApiError."""
        limits = self._admit(body)
        check_chat(body)
        tokens = await self._encode(request, chat_tokens, body, self.encoder, _record(request).tenant)
        logprobs = (body.top_logprobs or 0) + 1 if body.logprobs else 0
        asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        call = self._call(
            body, request, [tokens], limits, asked=asked, default=self.otherwise.max_tokens, logprobs=logprobs
        )
        prompt = call.generations[0].tokens
        text = self.encoder.decode(list(prompt)) if body.return_prompt_text else ""
        return await self._answer(call, body, request, ChatShape(body, self.names, prompt, text))

    async def complete(self, body: CompletionBody, request: Request) -> Response:
        """Answer ``/v1/completions``. Raises ApiError."""
        limits = self._admit(body)
        check_completion(body)
        given = prompts(body.prompt)
        n = body.n or 1
        if len(given) * n > MAX_CHOICES:
            raise invalid(f"at most {MAX_CHOICES} choices in one request", "prompt")
        special = body.add_special_tokens is not False
        batch = await self._encode(request, prompt_tokens, given, self.encoder, special)
        logprobs = 0 if body.logprobs is None else body.logprobs + 1
        default = min(COMPLETION_TOKENS, self.otherwise.max_tokens or COMPLETION_TOKENS)
        call = self._call(body, request, batch, limits, asked=body.max_tokens, default=default, logprobs=logprobs)
        found = [generation.tokens for generation in call.generations]
        echoes = self._echoes(given, batch, found) if body.echo else []
        return await self._answer(call, body, request, CompletionShape(body, self.names, echoes, found))

    def _echoes(self, given: list[str | list[int]], batch: list[list[int]], found: list[Sequence[int]]) -> list[str]:
        """What to echo of each prompt: its text as it came, or that of the tokens that came or were left of it."""
        rows = zip(given, batch, found, strict=True)
        return [
            prompt if isinstance(prompt, str) and len(left) == len(tokens) else self.encoder.decode(list(left))
            for prompt, tokens, left in rows
        ]

    def _admit(self, body: Body) -> Limits:
        """Checks that need no tokens; what the engines can take."""
        if body.model != self.model:
            raise unknown_model(body.model)
        refuse_unsupported(body, CHAT if isinstance(body, ChatBody) else PLAIN)
        return self.engines.limits()

    async def _encode(self, request: Request, encode: Callable[..., T], *arguments: Any) -> T:
        if int(request.headers.get("content-length") or LONG_BODY_BYTES) < LONG_BODY_BYTES:
            return encode(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.encoding, encode, *arguments)

    def _call(
        self,
        body: Body,
        request: Request,
        batch: Sequence[Sequence[int]],
        limits: Limits,
        *,
        asked: int | None,
        default: int | None,
        logprobs: int,
    ) -> Call:
        """The generations of a request, not yet sent."""
        record = _record(request)
        param = "messages" if isinstance(body, ChatBody) else "prompt"
        call = Call(self.backlogs)
        for given in batch:
            tokens = truncated(given, body, default if asked is None else asked, limits)
            check_prompt(tokens, limits, param)
            how = sampling(body, len(tokens), asked, default, logprobs, limits, param, self.otherwise)
            how = self.ends.added(how, stop_strings(body), limits.vocab_size)
            call.add(record.tenant, tokens, how, body.n or 1, body.cache_salt or "")
        return call

    async def _answer(self, call: Call, body: Body, request: Request, shape: Shape) -> Response:
        record = _record(request)
        choices = self._choices(call, body)
        self.engines.submit(call)
        record.generates = True
        record.engines = ",".join(sorted({generation.engine for generation in call.generations}))
        record.prompt_tokens = sum(len(generation.tokens) for generation in call.generations)
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        counted = with_usage and bool(body.stream_options and body.stream_options.continuous_usage_stats)
        answer = Answer(call, choices, shape, body.model, record, self.ping_s, counted)
        return await answer.respond(request.receive, bool(body.stream), with_usage)

    def _choices(self, call: Call, body: Body) -> list[Choice]:
        stops = stop_strings(body)
        spelled = self.ends.spelled(stops)
        skip = body.skip_special_tokens is not False
        eos = frozenset(unpack(self.engines.eos_token_ids()))
        out = []
        for generation in call.generations:
            silent = eos | set(unpack(generation.sampling.stop_token_ids))
            for index in range(generation.n):
                detokenizer = Detokenizer(self.encoder.backend, generation.tokens, skip)
                number = generation.first_choice + index
                out.append(Choice(number, detokenizer, stops, generation.sampling.min_tokens, silent, spelled))
        return out


def _record(request: Request) -> Record:
    """What the edge keeps of a request."""
    record: Record = request.scope["record"]
    return record
