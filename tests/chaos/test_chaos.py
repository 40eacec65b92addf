"""Real processes, killed and stopped at random: two minutes in CI; `make soak` runs it for longer (``run``)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.support.stamped_arena import LAYOUT, Arena, ForeignBytes, stamps

MINUTES = 2.0
SLACK = 5.0  # CI shares its machine with unknown others


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(600)
def test_two_minutes_of_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No foreign byte, no leak, no exception; every engine that died or hung gave its blocks back in time."""
    seed = random.randrange(10**6)
    with capsys.disabled():
        print(f"\npython -m tests.chaos.run --minutes {MINUTES} --seed {seed}")
        report = run(MINUTES, seed, SLACK, tmp_path)
        print(report.markdown())
    assert report.figures["totals"]["finished"] > 0


def test_a_foreign_byte_is_found() -> None:
    """Another tenant's stamp, another's tokens, an unwritten slot and one flipped bit are all told from our own."""
    tokens, table = [1, 2, 3, 4, 5, 6], [2, 0]
    arena = Arena(memoryview(bytearray(LAYOUT.arena_bytes(3))), 3)
    arena.write(table, tokens, 0, [(2, "(public)"), (6, "a")])
    arena.read(table, tokens, 6, "a", 2)
    others = [("b", tokens, 2), ("a", [1, 2, 3, 4, 5, 7], 2), ("a", [*tokens, 7], 2), ("a", tokens, 1)]
    for tenant, read, shared in others:
        with pytest.raises(ForeignBytes):
            arena.read(table, read, len(read), tenant, shared)
    arena.copy(0, 1, 1)
    arena.read([2, 1], tokens, 5, "a", 2)
    arena.scrub(1)
    with pytest.raises(ForeignBytes, match="block 1, position 4"):
        arena.read([2, 1], tokens, 5, "a", 2)
    assert stamps("a", tokens, 0, 6)[3:] == stamps("a", tokens, 3, 6)
