"""Hits: what agents with one published prompt find computed, by their answers' usage and by engines' counters.

A published prompt that a node computes unasked, before any agent comes, is in no answer's usage. It is counted here all
the same, once for each node, so that a cluster is not better than one pool by being earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from bench.load.agents import TENANTS, Agent
from bench.load.generator import play
from bench.load.stream import Answer

from .local_cluster import LocalCluster


@dataclass(frozen=True, slots=True)
class Hits:
    """Of one fleet.

    Attributes:
        prompt, cached, output: tokens, as the answers say.
        unasked: prompt tokens that were computed before the first request.
        beyond: tokens that engines have computed beyond what answers account for; None where that was not counted.
    """

    prompt: int
    cached: int
    output: int
    unasked: int = 0
    beyond: int | None = None

    @property
    def rate(self) -> float:
        """Prompt tokens that were not computed, of all."""
        return 1 - (self.prompt - self.cached + self.unasked) / self.prompt


def fleet(number: int, prompt: str, words: Sequence[str], turns: int = 2, tokens: int = 16) -> tuple[Agent, ...]:
    """So many agents, dealt out to all tenants: one prompt for all, and ten words of their own at each turn."""
    rng = Random(number)

    def said() -> str:
        return " ".join(words[rng.randrange(len(words))] for _ in range(10))

    return tuple(
        Agent(place % TENANTS, 0.0, prompt, tuple(said() for _ in range(turns)), tokens) for place in range(number)
    )


def hits_of(answers: Sequence[Sequence[Answer]], **more: int) -> Hits:
    """By the answers."""
    flat = [answer for turns in answers for answer in turns]
    prompt, cached = sum(answer.prompt for answer in flat), sum(answer.cached for answer in flat)
    return Hits(prompt, cached, sum(answer.output for answer in flat), **more)


def play_cluster(
    cluster: LocalCluster, agents: tuple[Agent, ...], heard: Callable[[list[list[Answer]]], None] | None = None
) -> tuple[Hits, Mapping[str, int]]:
    """Play it on a cluster to which nobody has come yet; its hits, and what each node had computed before, by name."""
    nodes = cluster.nodes()
    before = {node["name"]: cluster.computed_tokens(node) for node in nodes}
    answers = play(agents, cluster.target())
    if heard:
        heard(answers)
    computed = sum(cluster.computed_tokens(node) for node in nodes) - sum(before.values())
    told = hits_of(answers)
    accounted = told.prompt - told.cached + told.output
    return hits_of(answers, unasked=sum(before.values()), beyond=computed - accounted), before
