"""Call choices: what a request's continuations are taken apart with, a choice for each.

A thousand prompts take tens of milliseconds, so others get their turn between them (``unhurried``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol, TypeVar

from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import unpack_u32
from quire_services.gateway.openai.bodies import Body, ChatBody
from quire_services.gateway.openai.chat_tools import callable_tools, choice_of
from quire_services.gateway.openai.sampling import stop_strings
from quire_services.gateway.templates.chat_template import PromptEncoder
from quire_services.gateway.text.choices import Choice
from quire_services.gateway.text.detokenizer import Detokenizer
from quire_services.gateway.text.end_tokens import EndTokens
from quire_services.gateway.tools.grammar.tool_choice import ToolChoice

PROMPTS_AT_ONCE = 64
_One = TypeVar("_One")


class Continued(Protocol):
    """A prompt and its ``n`` continuations, which are numbered from ``first_choice`` on."""

    tokens: Sequence[int]
    sampling: Sampling
    n: int
    first_choice: int


class CallChoices:
    """Makes choices for one model.

    Args:
        encoder: its tokenizer, and how it writes.
        ends: its end tokens.
    """

    def __init__(self, encoder: PromptEncoder, ends: EndTokens) -> None:
        self._encoder, self._ends = encoder, ends
        self._specials = {token: spelling for spelling, token in encoder.answers.specials.items()}

    async def of(self, body: Body, prompts: Iterable[Continued], eos: bytes) -> list[Choice]:
        """The choices of a request, in order; ``eos``: end tokens that the engines know, packed."""
        stops = stop_strings(body)
        spelled = self._ends.spelled(stops)
        skip = body.skip_special_tokens is not False
        chat = body if isinstance(body, ChatBody) else None
        tools = callable_tools(chat) if chat else None
        chosen = choice_of(chat) if chat else ToolChoice("none")
        one_call = chosen.one or bool(chat and chat.parallel_tool_calls is False)
        known = frozenset(unpack_u32(eos))
        out = []
        async for prompt in unhurried(prompts):
            silent = known | set(unpack_u32(prompt.sampling.stop_token_ids))
            prompt_end = self._encoder.end_of(prompt.tokens) if chat else ""
            for index in range(prompt.n):
                one = Choice(
                    prompt.first_choice + index,
                    Detokenizer(self._encoder.backend, prompt.tokens, skip),
                    stops,
                    prompt.sampling.min_tokens,
                    silent,
                    spelled,
                    self._encoder.answers.parser(tools, prompt_end, chosen.mode == "required") if chat else None,
                    self._specials,
                    one_call=one_call,
                    with_stop=bool(body.include_stop_str_in_output),
                    mute=body.max_tokens == 0,
                )
                out.append(one)
        return out


async def unhurried(many: Iterable[_One]) -> AsyncIterator[_One]:
    """Each of many, with a look at the sockets after some."""
    for place, one in enumerate(many):
        if place % PROMPTS_AT_ONCE == PROMPTS_AT_ONCE - 1:
            await asyncio.sleep(0)
        yield one
