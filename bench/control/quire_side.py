"""Our side of ``quire bench control``: the engine's session over the real socket to a real kvstore.

It is driven as the engine's loop drives it: ``KvSession`` of ``quire_engine`` collects what became of the sequences and
says it in one message a step at most. Which sequence gets a token and which needs a block in a decode step is decided
by the ``Scheduler``, of which the peer's side has no counterpart. CPU time is that of this whole process and of the
kvstore's whole process; that of the engine's thread alone is shown beside it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.processes.kvprocess import cpu_ns
from quire_engine.kv.kv_session import KvSession
from quire_engine.kv.sequence_limits import longest
from quire_engine.scheduling.scheduler import Scheduler, SchedulerLimits
from quire_engine.sequences.sequence import Request, Sequence
from quire_engine.sequences.step_plan import StepPlan, Work
from quire_kv import KVClient
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32
from quire_services.process.gc_tuning import tune_gc

VOCAB = 32_000
TENANT = "bench"
MOST = 1 << 20  # sequences and tokens of a step: all that a case has


class Ours:
    """One session with the kvstore in ``run_dir``."""

    def __init__(self, run_dir: str, kvstore_pid: int) -> None:
        self._run_dir = run_dir
        self._client = KVClient(run_dir, name=f"bench-{os.getpid()}", timeout=30.0, resend=10.0)
        self.kv = KvSession(self._client)
        self.scheduler = Scheduler(SchedulerLimits(MOST, MOST, self.kv.block_size))
        self._kvstore_pid = kvstore_pid
        self._random = random.Random(time.time_ns())
        self._arrivals = 0
        self._seen_tenants: set[str] = set()
        self._decoding: list[Sequence] = []

    def prompt(self, count: int) -> bytes:
        """A new random prompt, packed as the gateway sends it."""
        return pack_u32(self._random.choices(range(VOCAB), k=count))

    # --- what the engine does -----------------------------------------------------------------------------------

    def build(self, prompt: bytes, tenant: str = TENANT) -> Sequence:
        """The request and its sequence, digests included."""
        self._arrivals += 1
        request = Request.of(Generate(str(self._arrivals), tenant, prompt, Sampling(4096)), frozenset())
        self.kv.match(request)
        request.longest = longest(self.kv.client, request)
        chain = self.kv.client.chain(tenant, prompt)
        return Sequence(0, request, 0, chain.ids, chain, self._arrivals)

    def admit(self, prompts: list[bytes], tenant: str = TENANT) -> list[Sequence]:
        """Build, hash, look up, allocate: one message."""
        sequences = [self.build(prompt, tenant) for prompt in prompts]
        grants = self.kv.sync(StepPlan(admits=sequences))
        if len(grants.admitted) != len(sequences):
            raise RuntimeError("the pool is full")
        return sequences

    def index(self, sequences: list[Sequence]) -> None:
        """All prompt tokens are computed: fill marks and seals, one message."""
        self.kv.computed([Work(sequence, sequence.remaining) for sequence in sequences])
        self.kv.sync(StepPlan())
        self.kv.completed(self.kv.step)

    def step(self, sequences: list[Sequence], token: int) -> None:
        """A decode step: a token for each sequence, the scheduler's choice, its message if there is any."""
        for sequence in sequences:
            sequence.append(token)
        wanted = self.scheduler.plan({}, False)
        grants = self.kv.sync(wanted)
        if grants.starved or grants.short_ahead or len(wanted.work) != len(sequences):
            raise RuntimeError("the pool is full")
        self.kv.computed(wanted.work)
        self.kv.completed(self.kv.step)

    def free(self, sequences: list[Sequence]) -> None:
        """Give sequences up: one message."""
        for sequence in sequences:
            self.kv.finished(sequence)
        self.kv.completed(self.kv.step)
        self.kv.sync(StepPlan())

    # --- cases: wall times of single operations (us), CPU time of one (us), messages of one -----------------------

    def case_attach(self, repeat: int) -> dict[str, Any]:
        """Come and go ``repeat`` times, as a session of its own."""

        def attach() -> None:
            KVClient(self._run_dir, name=f"bench-{os.getpid()}-guest", timeout=30.0, resend=10.0).detach()

        return self.timed([attach] * repeat)

    def case_admit(self, tokens: int, cached: bool, repeat: int) -> dict[str, Any]:
        """Admit ``repeat`` prompts, never seen before or sealed and freed; indexing is timed apart."""
        prompts = [self.prompt(tokens) for _ in range(repeat)]
        if cached:
            made = self.admit(prompts)
            self.index(made)
            self.free(made)
        made = []

        def admit(prompt: bytes) -> None:
            made.extend(self.admit([prompt]))

        figures = self.timed([partial(admit, prompt) for prompt in prompts])
        if not cached:
            figures["then_index"] = self.timed([partial(self.index, [sequence]) for sequence in made])
        self.free(made)
        return figures

    def case_free(self, tokens: int, repeat: int) -> dict[str, Any]:
        """Free ``repeat`` requests, each in a message of its own."""
        made = self.admit([self.prompt(tokens) for _ in range(repeat)])
        self.index(made)
        return self.timed([partial(self.free, [sequence]) for sequence in made])

    def case_decode(self, sequences: int, steps: int, prompt: int) -> dict[str, Any]:
        """``steps`` decode steps of ``sequences`` sequences, block edges spread evenly over the steps.

        A block's worth of steps goes before: what is put off in the timed steps was put off in those as well.
        """
        self.case_prepare(sequences, prompt)
        figures = self.case_steps(steps)
        self.case_drop()
        return figures

    def case_prepare(self, sequences: int, prompt: int) -> dict[str, Any]:
        """Sequences that have decoded for a block's worth of steps."""
        made = self._decoding = self.admit([self.prompt(prompt + i % 16) for i in range(sequences)])
        self.index(made)
        for sequence in made:
            self.scheduler.joined(sequence)
        self._steps(self.kv.block_size)
        return {}

    def case_steps(self, steps: int) -> dict[str, Any]:
        """Decode steps of the sequences that are prepared."""
        return self.timed([partial(self._steps, 1)] * steps)

    def case_drop(self) -> dict[str, Any]:
        """Give the prepared sequences up."""
        self.scheduler.clear()
        self.free(self._decoding)
        self._decoding = []
        return {}

    def _steps(self, steps: int) -> None:
        for _ in range(steps):
            self.step(self._decoding, self._random.randrange(VOCAB))

    def case_fork(self, tokens: int, children: int, repeat: int) -> dict[str, Any]:
        """``children`` branches off a running sequence, each able to write its next token."""
        parents = self.admit([self.prompt(tokens) for _ in range(repeat)])
        self.index(parents)
        made: list[Sequence] = []

        def fork(parent: Sequence) -> None:
            branches = [self._branch(parent) for _ in range(children)]
            self.kv.forked(parent, branches)
            self.kv.sync(StepPlan())
            if self.kv.sync(StepPlan(extends=[(branch, branch.computed + 1) for branch in branches])).starved:
                raise RuntimeError("the pool is full")
            made.extend(branches)

        figures = self.timed([partial(fork, parent) for parent in parents])
        self.free(made + parents)
        return figures

    def case_tenants(self, tokens: int, tenants: int, repeat: int) -> dict[str, Any]:
        """Admit prompts of tenants drawn from many, each of which has a cached prompt already."""
        names = [f"tenant-{i}" for i in range(tenants)]
        for name in names:
            if name not in self._seen_tenants:
                self._admit_and_free(self.prompt(self.kv.block_size), name)
                self._seen_tenants.add(name)
        chosen = [(self.prompt(tokens), self._random.choice(names)) for _ in range(repeat)]
        made: list[Sequence] = []

        def admit(prompt: bytes, name: str) -> None:
            made.extend(self.admit([prompt], name))

        figures = self.timed([partial(admit, *one) for one in chosen])
        self.free(made)
        return figures

    def case_fill(self, blocks: int) -> dict[str, Any]:
        """Fill a pool of ``blocks`` with cached blocks."""
        most = max(1, min(1024, blocks // 4))
        for _ in range(-(-blocks // most)):
            self._admit_and_free(self.prompt(most * self.kv.block_size), TENANT)
        return {}

    def _admit_and_free(self, prompt: bytes, tenant: str) -> None:
        made = self.admit([prompt], tenant)
        self.index(made)
        self.free(made)

    def case_stop(self) -> dict[str, Any]:
        """Leave the kvstore."""
        self._client.detach()
        return {}

    def _branch(self, parent: Sequence) -> Sequence:
        self._arrivals += 1
        known = parent.computed
        chain = parent.chain.fork(known)
        return Sequence(
            self.kv.new_id(),
            parent.request,
            1,
            chain.ids,
            chain,
            self._arrivals,
            table=parent.table.copy(),
            computed=known,
            sealed=parent.sealed,
        )

    def timed(self, operations: list[Callable[[], None]]) -> dict[str, Any]:
        """Run the operations one after the other."""
        walls = []
        messages = self.kv.messages
        engine, thread, kvstore = time.process_time_ns(), time.thread_time_ns(), cpu_ns(self._kvstore_pid)
        began_all = time.perf_counter_ns()
        for operation in operations:
            began = time.perf_counter_ns()
            operation()
            walls.append((time.perf_counter_ns() - began) / 1000)
        count = len(operations)
        engine_us = (time.process_time_ns() - engine) / 1000 / count
        kvstore_us = (cpu_ns(self._kvstore_pid) - kvstore) / 1000 / count
        return {
            "wall_us": walls,
            "total_wall_us": (time.perf_counter_ns() - began_all) / 1000,
            "cpu_us": engine_us + kvstore_us,
            "engine_cpu_us": engine_us,
            "engine_thread_cpu_us": (time.thread_time_ns() - thread) / 1000 / count,
            "kvstore_cpu_us": kvstore_us,
            "messages": (self.kv.messages - messages) / count,
        }


def main() -> None:
    """Serve requests from stdin: arguments are the run directory and the kvstore's process id."""
    ours = Ours(sys.argv[1], int(sys.argv[2]))
    tune_gc()  # as an engine's process does
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(ours, f"case_{request.pop('case')}")(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
