"""The load generator: plays a workload's agents against any OpenAI-compatible server and sums up what they saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import uvloop

from bench.processes.side import OutOfTime
from bench.report.figures import median, percentile

from .agents import TENANTS, Agent
from .stream import Answer, complete

REQUEST_S = 600.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. ``key`` and ``extra`` (fields of the body) depend on the tenant."""

    host: str
    port: int
    model: str
    key: Callable[[int], str]
    extra: Callable[[int], dict[str, Any]]


def play(agents: tuple[Agent, ...], *targets: Endpoint, limit_s: float | None = None) -> list[list[Answer]]:
    """Run all agents to their end; the answers of each agent's turns. Raises OutOfTime where that takes too long.

    Several targets are dealt out in turn, each to one agent of every tenant.
    """

    async def everyone() -> list[list[Answer]]:
        return await asyncio.gather(
            *(_live(agent, targets[i // TENANTS % len(targets)]) for i, agent in enumerate(agents))
        )

    async def limited() -> list[list[Answer]]:
        try:
            async with asyncio.timeout(limit_s) as clock:
                return await everyone()
        except TimeoutError:
            if clock.expired() and limit_s is not None:
                raise OutOfTime(limit_s) from None
            raise

    return uvloop.run(limited())  # as light as can be: it shares the machine with what it measures


def play_cold(
    publish: Callable[[], None], agents: tuple[Agent, ...], *targets: Endpoint, limit_s: float | None = None
) -> list[list[Answer]]:
    """The same, with the publishing of prompts inside what is timed: every agent's first answer waited for it."""
    began = time.perf_counter()
    publish()
    spent = time.perf_counter() - began
    answers = play(agents, *targets, limit_s=limit_s)
    return [[replace(turns[0], began=turns[0].began - spent), *turns[1:]] for turns in answers]


async def _live(agent: Agent, target: Endpoint) -> list[Answer]:
    await asyncio.sleep(agent.start_s)
    messages = [{"role": "system", "content": agent.system}] if agent.system else []
    answers = []
    for turn in agent.turns:
        messages.append({"role": "user", "content": turn})
        answer = await complete(
            target.host, target.port, target.key(agent.tenant), _body(agent, messages, target), REQUEST_S
        )
        answers.append(answer)
        messages.append({"role": "assistant", "content": answer.texts[0]})
    return answers


def _body(agent: Agent, messages: list[dict[str, str]], target: Endpoint) -> dict[str, Any]:
    # No seed for those that are drawn: vLLM's CPU build ends with "CPU Generator does not use offset" when a request
    # with one is prefilled in parts.
    sampling: dict[str, Any] = {"temperature": 0.0 if agent.greedy else 1.0}
    if agent.n > 1:
        sampling["n"] = agent.n
    return {
        "model": target.model,
        "messages": messages,
        "max_tokens": agent.max_tokens,
        "ignore_eos": True,
        **sampling,
        **target.extra(agent.tenant),
    }


def play_summary(answers: list[list[Answer]]) -> dict[str, float]:
    """Times in seconds, from the first request's sending to the last answer's end."""
    flat = [answer for turns in answers for answer in turns]
    span = max(a.ended for a in flat) - min(a.began for a in flat)
    first = [a.first - a.began for a in flat]
    whole = [a.ended - a.began for a in flat]
    pace = [gap for a in flat for gap in _gaps(a)] or [0.0]
    output = sum(a.output for a in flat)
    prompt, cached = sum(a.prompt for a in flat), sum(a.cached for a in flat)
    return {
        "requests": float(len(flat)),
        "span_s": span,
        "output_tokens": float(output),
        "output_tokens_per_s": output / span,
        "ttft_p50_s": median(first),
        "ttft_p99_s": percentile(first, 0.99),
        "inter_token_p50_s": median(pace),
        "inter_token_p99_s": percentile(pace, 0.99),
        "e2e_p50_s": median(whole),
        "e2e_p99_s": percentile(whole, 0.99),
        "prompt_tokens": float(prompt),
        "prompt_tokens_computed": float(prompt - cached),
    }


def _gaps(answer: Answer) -> list[float]:
    """Seconds between the pieces of text of each choice, as a reader sees them: mostly a token each."""
    return [later - sooner for times in answer.tokens.values() for sooner, later in pairwise(times)]


def agreement(ours: list[list[Answer]], theirs: list[list[Answer]]) -> dict[str, float]:
    """How far two servers gave the same text: share of equal answers, and mean share of the common beginning.

    A conversation is compared up to its first difference: from there on the prompts differ.
    """
    equal, prefix, count = 0, 0.0, 0
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            left, right = a.texts[0].split(), b.texts[0].split()
            same = next((i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), len(left))
            count += 1
            equal += left == right
            prefix += same / max(1, len(left), len(right))
            if left != right:
                break
    return {"answers": float(count), "equal": equal / count, "common_prefix": prefix / count}
