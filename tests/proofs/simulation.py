"""The simulation: four engines, an operator and a kvstore over a bad network, all of them killed and stopped at will.

``run`` lets one seed happen: ``steps`` events with faults, then peace, in which everything must come right. Checked are
the store's own invariants, what each quiet engine believes against what the store has, every slot that a device reads,
every acknowledged declaration, and in the end that no request is lost and no block held. A failing seed fails in the
same way again:

    python -m tests.proofs.simulation --seed S --steps N --every 1
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, deque
from dataclasses import dataclass, field

from structlog.testing import capture_logs

from quire_kvstore.sessions.session import FENCED
from tests.proofs.sim import Sim
from tests.proofs.sim_client import READY_STATE
from tests.proofs.sim_engine import SimEngine, Task
from tests.proofs.sim_kvstore import SimKvstore
from tests.proofs.sim_network import Network
from tests.proofs.sim_operator import PROMPT, MemoryDir, Operator
from tests.proofs.world import PUBLISHED, SIZE, World

ENGINES = 4
EVERY = 16
PEACE_MS = 60_000
BEGINNINGS = ([0], [0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], PUBLISHED, PROMPT)


class Violation(AssertionError):
    """Something that must never happen, with the seed that makes it happen again."""


@dataclass
class Outcome:
    """What one or more seeds came to."""

    steps: int = 0
    finished: int = 0
    virtual_ms: int = 0
    trace: str = ""
    passed: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        """Sum up."""
        self.steps, self.finished = self.steps + other.steps, self.finished + other.finished
        self.virtual_ms += other.virtual_ms
        self.passed += other.passed
        self.killed += other.killed
        self.events += other.events


class Simulation:
    """One seed."""

    def __init__(self, seed: int, every: int = EVERY) -> None:
        self.sim = sim = Sim(seed)
        self._every = every
        policy = sim.random.choice(("lru", "density"))
        self.world = World(sim.random.choice((14, 20, 28)), policy, MemoryDir(sim))
        self.world.domains.share("public", PROMPT)
        self.network = Network(sim)
        self.kvstore = SimKvstore(sim, self.world, self._reply)
        self.queue: deque[Task] = deque()
        self.engines = [SimEngine(sim, f"c{i}", self.kvstore, self.network, self.queue) for i in range(ENGINES)]
        self.operator = Operator(sim, self.kvstore, self.network)
        self._clients = {client.name: client for client in (*self.engines, self.operator)}
        self.asked = 0

    def run(self, steps: int) -> Outcome:
        """``steps`` events with faults, then peace and the last judgement. Raises AssertionError."""
        sim = self.sim
        self.kvstore.start()
        self.operator.start()
        for engine in self.engines:
            engine.start()
        sim.at(1, self._demand)
        sim.at(50, self._stops)
        checked = 0
        while sim.steps < steps:
            sim.next()
            if sim.steps - checked >= self._every:
                checked = sim.steps
                self.check()
        self._settle()
        finished = sum(engine.finished for engine in self.engines)
        return Outcome(sim.steps, finished, sim.now, sim.trace, sim.passed, sim.killed)

    def check(self) -> None:
        """What must hold at any instant."""
        store = self.world.store
        store.check_invariants()
        self.operator.check()
        for engine in self.engines:
            if engine.alive and engine.state == READY_STATE and not engine.in_flight():
                session = self.world.session(engine.session.session)
                if session is not None and session.state != FENCED and engine.session.boot == self.world.service.boot:
                    _agree(engine, session)

    def _reply(self, identity: bytes, frame: bytes) -> None:
        client = self._clients[identity.decode().partition(":")[0]]
        self.network.carry(client.name, lambda frame: client.arrive(identity, frame), frame)

    def _demand(self) -> None:
        """Requests arrive while there are few."""
        random = self.sim.random
        if self.sim.faulty:
            while len(self.queue) < 3:
                prompt = [*random.choice(BEGINNINGS), *random.choices((0, 1), k=random.randint(0, 4))]
                self.queue.append(
                    Task(random.choice("ab"), prompt, len(prompt) + random.randint(1, 7), random.choice((1, 1, 2)))
                )
                self.asked += 1
            self.sim.at(random.randint(1, 10), self._demand)

    def _stops(self) -> None:
        """A process stands still, for less than its lease or for longer than the grace that follows it."""
        random = self.sim.random
        if self.sim.faulty:
            random.choice([*self.engines, self.kvstore]).stop(random.choice((5, 40, 90, 150, 400)))
            self.sim.at(random.randint(10, 250), self._stops)

    def _settle(self) -> None:
        """No more faults: every request is answered, nothing stays held, and when all are gone only cache is left."""
        sim = self.sim
        sim.faulty = False
        until = sim.now + PEACE_MS
        while sum(engine.finished for engine in self.engines) < self.asked:
            sim.next()
            assert sim.now < until, f"{self.asked - sum(e.finished for e in self.engines)} requests are lost"
        while any(engine.state != READY_STATE or engine.in_flight() or engine.device.work for engine in self.engines):
            sim.next()
            assert sim.now < until, "an engine does not come to rest"
        self.check()
        for engine in self.engines:
            engine.alive = False  # without ended(): they do not start again
        end = sim.now + 50
        while sim.now < end:
            sim.next()
        self.world.store.check_invariants()
        counts, publications = self.world.store.state.pool.counts(), self.world.store.state.publications
        pinned = {int(block) for p in publications.all() if p.table is not None for block in p.table}
        assert (counts["held"], counts["quarantined"]) == (len(pinned), 0), f"a leak: {counts}, {len(pinned)} pinned"


def _agree(engine: SimEngine, session: object) -> None:
    """A quiet engine and the store believe the same of its sequences."""
    held = session.sequences
    given_up = {number for _, number in engine.device.retire._releases}
    assert set(held) == set(engine.rows) | given_up, f"{engine.name}: {set(held)} against {set(engine.rows)}"
    for number, row in engine.rows.items():
        sequence = held[number]
        table = [int(block) for block in sequence.table]
        swapped = [sequence.pins.get(index, block) for index, block in enumerate(table)]
        same = len(table) == len(row.table) and all(
            own in pair for own, *pair in zip(row.table, table, swapped, strict=True)
        )
        assert same, f"{engine.name} {number}: {row.table} against {table}, {sequence.pins}"
        assert (row.fill, row.writable) == (sequence.fill, sequence.writable), f"marks of {engine.name} {number}"
    assert SIZE == 2, "the worlds of the proofs"


def run(seed: int, steps: int, every: int = EVERY) -> Outcome:
    """One seed; what goes wrong says how to see it again."""
    simulation = Simulation(seed, every)
    try:
        with capture_logs() as logged:
            outcome = simulation.run(steps)
        outcome.events = Counter(f"{entry['event']} {entry.get('reason', '')}".strip() for entry in logged)
        return outcome
    except (AssertionError, KeyError, ValueError, IndexError, TypeError, AttributeError) as exc:
        again = f"python -m tests.proofs.simulation --seed {seed} --steps {steps} --every 1"
        raise Violation(f"seed {seed}, step {simulation.sim.steps}: {type(exc).__name__}: {exc}\n  {again}") from exc


def main() -> int:
    """Run seeds from the command line."""
    parser = argparse.ArgumentParser(description="Simulate a kvstore and its engines over a bad network.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--steps", type=int, default=10_000, help="of each seed")
    parser.add_argument("--every", type=int, default=EVERY, help="steps between two checks of all invariants")
    arguments = parser.parse_args()
    total = Outcome()
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        one = run(seed, arguments.steps, arguments.every)
        print(f"seed {seed}: {one.steps} steps, {one.finished} requests, {one.virtual_ms} ms, trace {one.trace}")
        total.add(one)
    for name, passed in sorted(total.passed.items()):
        print(f"  killed {total.killed[name]:5d} times of {passed:7d}: {name}")
    for name, times in sorted(total.events.items()):
        print(f"  {times:5d} times: {name}")
    print(f"{total.steps} steps, {total.finished} requests, {total.virtual_ms / 1000:.0f} virtual s, no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
