"""``quire bench eviction``: what a policy costs a block, beside LRU, by size of the pool.

Each policy is told what a store would tell it, without a store: the pool is full of cached tables, then tables are
served one after the other. A *new* table evicts as many blocks as it has, is sealed and released; a *hit* takes a
cached table and gives it back. Times are whole rounds divided by blocks; both policies take turns.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from random import Random

import numpy as np

from bench.report.figures import Report, median, percentile, table
from quire_kvstore.blocks.eviction import EvictionPolicy
from quire_kvstore.blocks.policies import POLICIES, make_policy

SIZES = "10000,100000,1000000"
TABLE_BLOCKS = 100
ROUNDS = 60


@dataclass(slots=True)
class FullPool:
    """One policy with a full pool: tables by number, and the free blocks."""

    policy: EvictionPolicy
    tables: dict[int, list[int]] = field(default_factory=dict)
    owner: dict[int, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    next_table: int = 0

    def serve_new(self) -> float:
        """A table that was never seen before; returns microseconds a block."""
        number, self.next_table = self.next_table, self.next_table + 1
        names = [b"%d/%d" % (number, index) for index in range(TABLE_BLOCKS)]
        began = time.perf_counter()
        victims: list[int] = []
        if len(self.free) < TABLE_BLOCKS:
            victims = self.policy.victims(TABLE_BLOCKS)
            self.policy.dropped(np.array(victims, np.int64))
        evicted = time.perf_counter() - began
        for victim in victims:
            self.tables.pop(self.owner[victim], None)
        self.free += victims
        blocks = [self.free.pop() for _ in range(TABLE_BLOCKS)]
        self.owner.update(dict.fromkeys(blocks, number))
        self.tables[number] = blocks
        began = time.perf_counter()
        self.policy.arrived(names, 0)
        for index, name in enumerate(names):
            self.policy.sealed(blocks[index], name, blocks[index - 1] if index else None)
        self._release(blocks)
        return (evicted + time.perf_counter() - began) * 1e6 / TABLE_BLOCKS

    def serve_hit(self, number: int) -> float:
        """A cached table once more; returns microseconds a block."""
        blocks = self.tables[number]
        names = [b"%d/%d" % (number, index) for index in range(TABLE_BLOCKS)]
        began = time.perf_counter()
        self.policy.arrived(names, TABLE_BLOCKS)
        self.policy.retained(np.array(blocks, np.int64))
        self._release(blocks)
        return (time.perf_counter() - began) * 1e6 / TABLE_BLOCKS

    def _release(self, blocks: list[int]) -> None:
        tail_first = np.array(blocks[::-1], np.int64)
        self.policy.served(tail_first, 100)
        self.policy.released(tail_first)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--sizes", default=SIZES, help=f"blocks in the pool, comma-separated (default: {SIZES})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"tables per figure (default: {ROUNDS})")


def run(arguments: argparse.Namespace) -> Report:
    """Measure every size."""
    sizes = [int(size) for size in arguments.sizes.split(",")]
    report = Report("eviction", {"table_blocks": TABLE_BLOCKS, "rounds": arguments.rounds})
    rows = []
    for size in sizes:
        for name, (new, hit) in _measure(size, arguments.rounds).items():
            row = {
                "blocks": size,
                "policy": name,
                "new_us": median(new),
                "new_p99_us": percentile(new, 0.99),
                "hit_us": median(hit),
                "hit_p99_us": percentile(hit, 0.99),
            }
            rows.append(row)
    report.figures["rows"] = rows
    report.tables.append(("Microseconds a block", table([list(row.values()) for row in rows], list(rows[0]))))
    report.notes.append("p99 is over whole tables: it holds the computations of the scores that fell into one.")
    return report


def _measure(size: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Microseconds a block of new tables and of hits, by policy."""
    sides = {name: _full(name, size) for name in POLICIES}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in sides}
    for round_ in range(rounds):
        for name, side in sides.items():
            rng = Random(round_)
            side.policy.now += 1.0
            times[name][0].append(side.serve_new())
            tried = rng.sample(range(side.next_table), min(50, side.next_table))
            whole = [number for number in tried if number in side.tables]
            if whole:
                times[name][1].append(side.serve_hit(whole[0]))
    return times


def _full(name: str, size: int) -> FullPool:
    side = FullPool(make_policy(name, size), free=list(range(size)))
    while len(side.free) >= TABLE_BLOCKS:
        side.policy.now += 0.1
        side.serve_new()
    return side
