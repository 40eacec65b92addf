"""Real processes, killed and stopped at random: two minutes in CI; `make soak` runs it for longer (``run``)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.engine import LAYOUT
from tests.chaos.run import run
from tests.support.stamped_arena import PUBLIC, ForeignBytes, StampedArena, stamps

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


def mapped(blocks: int) -> StampedArena:
    """Over memory as a kvstore maps it."""
    return StampedArena.mapped(memoryview(bytearray(LAYOUT.arena_bytes(blocks))), LAYOUT, blocks)


def in_memory(blocks: int) -> StampedArena:
    """As tests without processes have it."""
    return StampedArena.in_memory(blocks, LAYOUT.block_size)


@pytest.mark.parametrize("make", [mapped, in_memory])
def test_a_foreign_byte_is_found(make: Callable[[int], StampedArena]) -> None:
    """Another tenant's stamp, another's tokens, an unwritten slot and a spoilt one are all told from our own."""
    tokens, table = [1, 2, 3, 4, 5, 6], [2, 0]
    arena = make(3)
    arena.write(table, tokens, 0, 2, PUBLIC)
    arena.write(table, tokens, 2, 6, "a")
    arena.read(table, tokens, 6, {"a": 6, PUBLIC: 2})
    others = [("b", tokens, 2), ("a", [1, 2, 3, 4, 5, 7], 2), ("a", [*tokens, 7], 2), ("a", tokens, 1)]
    for tenant, read, shared in others:
        with pytest.raises(ForeignBytes):
            arena.read(table, read, len(read), {tenant: len(read), PUBLIC: shared})
    arena.copy(0, 1, 1)
    arena.read([2, 1], tokens, 5, {"a": 5, PUBLIC: 2})
    arena.scrub(1)
    with pytest.raises(ForeignBytes, match="token 4 in block 1"):
        arena.read([2, 1], tokens, 5, {"a": 5, PUBLIC: 2})
    assert stamps("a", tokens, 0, 6)[3:] == stamps("a", tokens, 3, 6)
    arena.check_writers(2, ["a", PUBLIC])
    arena.check_writers(0, ["a"])
    arena.spoil(0, 1, "b")
    arena.read(table, tokens, 5, {"a": 5, PUBLIC: 2})
    for domains in (["a"], [PUBLIC]):
        with pytest.raises(ForeignBytes, match="block 0 holds"):
            arena.check_writers(0, domains)
    with pytest.raises(ForeignBytes, match="token 5 in block 0"):
        arena.read(table, tokens, 6, {"a": 6, "b": 6, PUBLIC: 2})


def test_a_flipped_bit_is_found() -> None:
    """In one plane alone: keys and values of a slot must both be right."""
    memory = bytearray(LAYOUT.arena_bytes(1))
    arena = StampedArena.mapped(memoryview(memory), LAYOUT, 1)
    arena.write([0], [1, 2, 3, 4], 0, 4, "a")
    memory[-1] ^= 1
    arena.read([0], [1, 2, 3, 4], 3, {"a": 3})
    with pytest.raises(ForeignBytes, match="token 3 in block 0"):
        arena.read([0], [1, 2, 3, 4], 4, {"a": 4})
