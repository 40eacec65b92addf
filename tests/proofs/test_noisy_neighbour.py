"""A tenant with a guarantee keeps its hits beside one that floods; without one it loses them."""

from __future__ import annotations

import pytest

from bench.neighbours.noisy import A, B, Neighbours

CASES = [
    pytest.param("chat", 150, 0.85, id="chat"),
    pytest.param("agents", 60, 0.6, id="agents", marks=pytest.mark.slow),  # a thousand blocks a prompt
]


@pytest.mark.parametrize(("kind", "requests", "guarantee"), CASES)
def test_a_flood_of_ten_times_the_rate_costs_a_guaranteed_tenant_nothing(
    kind: str, requests: int, guarantee: float
) -> None:
    """Within 2 points of running alone, served without waiting; unguaranteed it loses more than 10 points."""
    neighbours = Neighbours(kind, requests, rate=10, pool=1.0, policy="density", seed=1)
    alone, flooded = neighbours.alone()[A].hit_rate, neighbours.flooded(0)[A].hit_rate
    both = neighbours.flooded(guarantee)

    assert both[A].hit_rate >= alone - 0.02
    assert max(both[A].waited) == 0.0
    assert both[B].requests == 10 * requests
    assert flooded < alone - 0.10, "the flood is none, so the guarantee proves nothing"


def test_a_guarantee_is_worth_a_pool_of_its_size() -> None:
    """Too small for all of a's hits, it is no worse than a pool of its own would be."""
    neighbours = Neighbours("chat", 150, rate=10, pool=1.0, policy="density", seed=2)
    promised, kept = neighbours.alone(0.4)[A].hit_rate, neighbours.flooded(0.4)[A].hit_rate

    assert kept >= promised - 0.02
    assert promised < neighbours.alone()[A].hit_rate - 0.02, "it is not too small, so this is the other test"
