"""Workloads of agents: what ``quire bench serve`` sends, generated from a seed.

A workload is a list of *agents*; an agent belongs to a tenant, starts at some second, and sends its turns one after
the other, each with everything said before. Prompts are words of which each is one token. ``shared`` holds the system
prompts that a server may share between tenants on purpose.

    shared-prompt  64 agents of 8 tenants with one 1,800-token prompt and 10 tokens of their own
    private        32 prompts of 860 tokens that have nothing in common
    chat           16 conversations of 8 turns
    branch         one 2,000-token context, 16 sampled continuations of one request
    rag            64 questions about 10 documents of 4,000 tokens
    herd           200 agents within one second, one new 1,800-token prompt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

WORKLOADS = ("shared-prompt", "private", "chat", "branch", "rag", "herd")
TENANTS = 8


@dataclass(frozen=True, slots=True)
class Agent:
    """One client. ``turns`` are its user messages; ``n`` continuations are asked for at each."""

    tenant: int
    start_s: float
    system: str
    turns: tuple[str, ...]
    max_tokens: int
    n: int = 1
    greedy: bool = True


@dataclass(frozen=True, slots=True)
class Workload:
    """``cold``: agents whose prompts no server has seen; ``warm``: agents with the same shared parts and new own
    ones (for ``private`` and ``chat``: the same prompts again)."""

    name: str
    shared: tuple[str, ...]
    cold: tuple[Agent, ...]
    warm: tuple[Agent, ...]


class _Text:
    """Random words."""

    def __init__(self, rng: Random, words: Sequence[str], scale: float) -> None:
        self._rng, self._words, self._scale = rng, words, scale

    def exactly(self, tokens: int) -> str:
        """That many words."""
        return " ".join(self._words[self._rng.randrange(len(self._words))] for _ in range(tokens))

    def scaled(self, tokens: int) -> str:
        """That many words, times the scale."""
        return self.exactly(max(1, round(tokens * self._scale)))


def make(name: str, seed: int, words: Sequence[str], scale: float = 1.0) -> Workload:
    """A workload; the same arguments give the same one.

    Args:
        words: what a prompt is made of, a token each.
        scale: factor on numbers of agents and on lengths, for small machines and for tests.
    """
    text = _Text(Random(f"{name}/{seed}"), words, scale)

    def count(value: int) -> int:
        return max(1, round(value * scale))

    return _MAKERS[name](name, text, count)


Count = Callable[[int], int]


def _shared_prompt(name: str, text: _Text, count: Count) -> Workload:
    prompt = text.scaled(1800)

    def agents() -> tuple[Agent, ...]:
        return tuple(Agent(i % TENANTS, 0.0, prompt, (text.exactly(10),), count(64)) for i in range(count(64)))

    return Workload(name, (prompt,), agents(), agents())


def _herd(name: str, text: _Text, count: Count) -> Workload:
    prompt, agents = text.scaled(1800), count(200)

    def herd() -> tuple[Agent, ...]:
        return tuple(Agent(i % TENANTS, i / agents, prompt, (text.exactly(10),), count(32)) for i in range(agents))

    return Workload(name, (prompt,), herd(), herd())


def _private(name: str, text: _Text, count: Count) -> Workload:
    agents = tuple(Agent(i % TENANTS, 0.0, "", (text.scaled(860),), count(64)) for i in range(count(32)))
    return Workload(name, (), agents, agents)


def _chat(name: str, text: _Text, count: Count) -> Workload:
    found = []
    for i in range(count(16)):
        turns = (text.scaled(300), *(text.scaled(60) for _ in range(count(8) - 1)))
        found.append(Agent(i % TENANTS, 0.0, "", turns, count(48)))
    agents = tuple(found)
    return Workload(name, (), agents, agents)


def _branch(name: str, text: _Text, count: Count) -> Workload:
    agent = Agent(0, 0.0, "", (text.scaled(2000),), count(128), n=count(16), greedy=False)
    warm = replace(agent, turns=(agent.turns[0] + " " + text.exactly(5),))
    return Workload(name, (), (agent,), (warm,))


def _rag(name: str, text: _Text, count: Count) -> Workload:
    documents = [text.scaled(4000) for _ in range(count(10))]

    def agents() -> tuple[Agent, ...]:
        return tuple(
            Agent(i % TENANTS, 0.0, documents[i % len(documents)], (text.exactly(20),), count(32))
            for i in range(count(64))
        )

    return Workload(name, tuple(documents), agents(), agents())


_MAKERS: dict[str, Callable[[str, _Text, Count], Workload]] = {
    "shared-prompt": _shared_prompt,
    "private": _private,
    "chat": _chat,
    "branch": _branch,
    "rag": _rag,
    "herd": _herd,
}
