"""A chat as an agent has it: OpenAI's client, the messages, and what came back and what it cost.

Every request is streamed, so that the time to its first token is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from openai import OpenAI

from examples.demo.stack import DemoStack, key_of

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """One request: whose it is, what it says after the system message, and its parameters."""

    tenant: str
    agent: str
    messages: Messages
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A tool call in an answer; the arguments as the model wrote them."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """What one request brought and was charged with. Lengths in tokens, ``ttft`` in seconds to the first token."""

    tenant: str
    agent: str
    engine: str
    prompt: int
    cached: int
    output: int
    ttft: float
    text: str
    pieces: int
    calls: tuple[Call, ...]
    finish: str

    @property
    def computed(self) -> int:
        """Prompt tokens that an engine had to compute."""
        return self.prompt - self.cached


def ask(stack: DemoStack, question: Question, aloud: Callable[[str], None] | None = None) -> Answer:
    """One chat that begins with the published prompt. ``aloud`` gets each piece of text as it comes."""
    shared = stack.prompt
    client = OpenAI(base_url=stack.url, api_key=key_of(question.tenant), max_retries=0, timeout=120)
    began = time.perf_counter()
    raw = client.chat.completions.with_raw_response.create(
        model=stack.model,
        messages=[{"role": "system", "content": shared.system}, *question.messages],
        **({"tools": shared.tools} if shared.tools else {}),
        stream=True,
        stream_options={"include_usage": True},
        **question.parameters,
    )
    first, finish, usage = 0.0, "", None
    pieces: list[str] = []
    calls: dict[int, Call] = {}
    for chunk in raw.parse():
        usage = chunk.usage or usage
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            if choice.delta.content or choice.delta.tool_calls:
                first = first or time.perf_counter() - began
            if choice.delta.content:
                pieces.append(choice.delta.content)
                if aloud:
                    aloud(choice.delta.content)
            for part in choice.delta.tool_calls or ():
                known, function = calls.get(part.index, Call("", "", "")), part.function
                calls[part.index] = Call(
                    known.id or part.id or "",
                    known.name + (function.name or "" if function else ""),
                    known.arguments + (function.arguments or "" if function else ""),
                )
    client.close()
    assert usage is not None, "the last chunk carries the usage"
    assert usage.prompt_tokens_details is not None
    return Answer(
        question.tenant,
        question.agent,
        raw.headers.get("x-quire-engine", ""),
        usage.prompt_tokens,
        usage.prompt_tokens_details.cached_tokens or 0,
        usage.completion_tokens,
        first,
        "".join(pieces),
        len(pieces),
        tuple(calls.values()),
        finish,
    )


def ask_all(stack: DemoStack, questions: list[Question]) -> tuple[list[Answer], int]:
    """All at once; also the most blocks that were in use meanwhile."""
    peak = 0
    pool = ThreadPoolExecutor(len(questions))
    try:
        futures = [pool.submit(ask, stack, question) for question in questions]
        while not all(future.done() for future in futures):
            peak = max(peak, stack.stats().blocks["held"])
            time.sleep(0.02)
        return [future.result() for future in futures], peak
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # when interrupted: the stack is stopped first, which ends them
