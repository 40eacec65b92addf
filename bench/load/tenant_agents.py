"""Agents of tenants that come one after the other, as a router meets them.

The agents of a tenant begin with its system prompt, which no other tenant has, and each goes on with turns of its own,
each with everything said before it. The workloads of ``agents`` begin all at once and share one prompt, or nothing:
there a router has little to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .agents import TENANTS, Agent


@dataclass(frozen=True, slots=True)
class TenantTraffic:
    """What is sent. Lengths in tokens.

    Attributes:
        agents: of all tenants, which have as many each.
        span_s: seconds within which agents begin.
    """

    agents: int = 24
    turns: int = 3
    system: int = 800
    turn: int = 60
    answer: int = 8
    span_s: float = 60.0


def tenant_agents(traffic: TenantTraffic, seed: int, words: Sequence[str], salt: str = "") -> tuple[Agent, ...]:
    """The agents of one seed, in the order in which they begin; ``words``: a token each.

    ``salt``: a word at the beginning of every prompt. The same agents with another one are in no cache.
    """
    random = Random(f"tenant-agents/{seed}")

    def text(tokens: int) -> str:
        return " ".join(random.choices(words, k=tokens))

    systems = [f"{salt} {text(traffic.system)}".strip() for _ in range(TENANTS)]
    tenants = [number % TENANTS for number in range(traffic.agents)]
    random.shuffle(tenants)
    starts = sorted(random.uniform(0, traffic.span_s) for _ in tenants)
    return tuple(
        Agent(tenant, start, systems[tenant], tuple(text(traffic.turn) for _ in range(traffic.turns)), traffic.answer)
        for tenant, start in zip(tenants, starts, strict=True)
    )
