"""The simulated engine: requests are computed on a device that reads what it attends to, with the library's own step
builder, retire list, chains and publication matching.

Each cycle launches what may be launched and says what completed, in one pipelined ``step``. Now and then a request
branches, is preempted for lack of space, or waits for what another engine computes. A request whose process died or
whose session was lost goes back to the queue: none may be missing in the end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import chain

from quire_proto import messages as m
from quire_proto.op_table import LOOKUP, STEP, WAIT
from quire_proto.step.step_builder import StepBuilder, results
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32
from tests.proofs.engine import Branch, Device, Work
from tests.proofs.extends import extends_of
from tests.proofs.sim import Sim
from tests.proofs.sim_client import READY_STATE, SimClient
from tests.proofs.sim_kvstore import SimKvstore
from tests.proofs.sim_network import Network
from tests.proofs.world import SIZE
from tests.support.stamped_arena import PUBLIC

CYCLE_MS, WORK_MS = (1, 6), (1, 5)
HANGS, HANGING_MS = 1 / 100, 500  # a step that outlives the lease, and the grace after it
PIPELINED, ROWS, CHUNK = 4, 5, 5
WAIT_S = 0.12
FLOOD, FLOODED = 1 / 400, 90
KILL = 1 / 1500


@dataclass(eq=False)
class Task:
    """A request: a prompt, how long it gets, and whether it branches. ``done``: its branches that were delivered."""

    tenant: str
    prompt: list[int]
    total: int
    branches: int
    done: int = 0


@dataclass(eq=False)
class Row(Branch):
    """A branch and what was said of it.

    ``sealing``: blocks whose seal was sent; ``sealed``: and acknowledged. ``swapping``: by table index the block that
    the store's table has until the swap is acknowledged; a child that is forked before has it too.
    """

    task: Task = field(kw_only=True)
    number: int = field(kw_only=True)
    token: int = 0
    reported: int = 0
    sealing: int = 0
    sealed: int = 0
    forks: int = 0
    growing: bool = False
    swapping: dict[int, int] = field(default_factory=dict)
    may_seal: bool = True


@dataclass(eq=False)
class Ask:
    """An allocate that is not granted yet. Its number stays, for a claim may have passed to it."""

    task: Task
    number: int
    item: m.Allocate
    chain: DomainChain


class SimEngine(SimClient):
    """An engine; ``queue`` is shared by all, ``finished`` counts what was delivered."""

    def __init__(self, sim: Sim, name: str, kvstore: SimKvstore, network: Network, queue: deque[Task]) -> None:
        super().__init__(sim, name, kvstore, network)
        self.queue = queue
        self.finished = 0
        self.rows: dict[int, Row] = {}
        self.tasks: list[Task] = []

    def opened(self) -> None:
        self.builder = StepBuilder(self.device.retire)
        self.ready_to_ask: list[Ask] = []
        self.asked: dict[int, Ask] = {}
        self._number = self._busy = 0
        self._completed: deque[Work] = deque()
        self.later(1, self._cycle, self.device)

    def dropped(self) -> None:
        for task in self.tasks:
            task.done = 0
        self.queue.extendleft(self.tasks)
        self.rows, self.tasks = {}, []

    def fresh(self) -> int:
        """The number of a new sequence."""
        self._number += 1
        return self._number

    # --- work -----------------------------------------------------------------------------------------------------

    def _cycle(self, device: Device) -> None:
        if device is not self.device or self.state != READY_STATE:
            return
        if not self.lease_valid():
            self.lose()
            return
        self.later(self.sim.random.randint(*CYCLE_MS), self._cycle, device)
        for row in self.rows.values():
            self._launch(row)
        self.sim.failpoint("client: launched work", KILL)
        if self.in_flight() < PIPELINED and self.session.has_space():
            self._say()
        if self.sim.chance(FLOOD):
            for _ in range(FLOODED):
                self.call(LOOKUP, m.Lookup("p"), lambda _: None)

    def _launch(self, row: Row) -> None:
        upto = min(row.launched + self.sim.random.randint(1, CHUNK), row.writable, row.task.total)
        if upto > row.launched:
            self.device.launch(row, upto, row.token)
            lasts = self.sim.random.randint(1, HANGING_MS) if self.sim.chance(HANGS) else 0
            self._busy = max(self._busy, self.sim.now) + lasts + self.sim.random.randint(*WORK_MS)
            self.sim.at(self._busy - self.sim.now, self._run, self.life, self.device)

    def _run(self, life: int, device: Device) -> None:
        """The device does not care whether its process is stopped or its session lost; with the process it ends."""
        if life == self.life and self.alive:
            self.sim.note("work", self.name)
            self._completed.append(device.run())
            self.later(0, self._see, device)

    def _see(self, device: Device) -> None:
        while self._completed:
            work = self._completed.popleft()
            device.seen(work)
            for copy_id, *_ in work.copies:
                device.retire.copy_done(work.step, copy_id)
        self.sim.failpoint("client: saw a step complete", KILL)

    def _deliver(self, row: Row) -> None:
        """All tokens of a branch are there: give them to the client that asked, and the sequence up."""
        self._give_up(row)
        row.task.done += 1
        if row.task.done == row.task.branches:
            self.tasks.remove(row.task)
            self.finished += 1
            self.sim.note("delivered", self.name, row.task.prompt)

    def _give_up(self, row: Row) -> None:
        del self.rows[row.number]
        self.device.retire.release(row.last_step, row.number)

    def _preempt(self, task: Task) -> None:
        """Give all branches of a request up; it begins anew, here or elsewhere."""
        for row in [row for row in self.rows.values() if row.task is task]:
            self._give_up(row)
        task.done = 0
        self.tasks.remove(task)
        self.queue.append(task)

    # --- what a step says -----------------------------------------------------------------------------------------

    def _say(self) -> None:
        for row in list(self.rows.values()):
            end = row.written // SIZE
            if row.may_seal and end == row.sealing + 1 and self.sim.random.random() < 0.5:
                self.builder.complete(row.number, row.sealing, row.written, row.chain.digests(row.sealing, end))
                row.sealing, row.reported = end, row.written
            elif row.written > row.reported:
                self.builder.fill(row.number, row.written)
                row.reported = row.written
            if row.may_seal and end > row.sealing and self.sim.random.random() < 0.8:
                self.builder.seal(row.number, row.sealing, row.chain.digests(row.sealing, end))
                row.sealing = end
            if row.written >= row.task.total and row.forks == row.task.branches - 1:
                self._deliver(row)
            elif not row.growing:
                self._grow(row)
        if self.queue and len(self.rows) + len(self.asked) < ROWS:
            self._new(self.queue.popleft())
        for ask in self.ready_to_ask:
            self.builder.allocate(ask.item)
        self.ready_to_ask = []
        step = self.builder.build()
        if step is not None:
            self.sim.failpoint("client: built a step", KILL)
            self.call(STEP, step, lambda reply: self._stepped(step, reply))
            self.sim.failpoint("client: sent a step", KILL)

    def _grow(self, row: Row) -> None:
        wants_fork = row.forks < row.task.branches - 1 and row.fill >= len(row.task.prompt)
        if wants_fork and not row.copies:
            self.builder.fork(row.number, [self.fresh()], row.fill)
            row.growing = True
        elif row.launched >= row.writable and row.writable < row.task.total and not wants_fork:
            self.builder.extend(row.number, min(row.writable + self.sim.random.randint(1, 4), row.task.total))
            row.growing = True

    def _new(self, task: Task) -> None:
        prompt = DomainChain(self.domains[task.tenant].key, SIZE, task.prompt)
        self.tasks.append(task)
        self._ask(task, self.fresh(), prompt, int(self.sim.random.random() < 0.6))

    def _ask(self, task: Task, number: int, prompt: DomainChain, may_wait: int) -> None:
        found = self.publications.match(prompt.tokens, self.domains[task.tenant].domains | {"public": 0})
        item = m.Allocate(
            number,
            task.tenant,
            len(task.prompt),
            prompt.digests(),
            publication=found.id if found else "",
            publication_generation=found.generation if found else 0,
            reserve=self.sim.random.randint(0, task.total),
            may_wait=may_wait,
        )
        self.asked[number] = Ask(task, number, item, prompt)
        self.ready_to_ask.append(self.asked[number])

    # --- what its reply says --------------------------------------------------------------------------------------

    def _stepped(self, step: m.Step, reply: m.Stepped) -> None:
        said = results(step, reply)
        assert set(said.releases.values()) <= {m.OK}, f"a release: {said.releases}"
        assert set(said.fills.values()) <= {m.OK}, f"a fill: {said.fills}"
        assert set(said.swaps.values()) <= {m.OK}, f"a swap: {said.swaps}"
        # NO_SUCH: its sequence was given up in the same step.
        assert set(said.copies_done.values()) <= ({m.OK, m.NO_SUCH} if said.releases else {m.OK})
        for number, index, _ in said.swaps:
            if number in self.rows:
                del self.rows[number].swapping[index]
        for number, code in said.fills.items():
            if number in self.rows and code == m.OK:
                fills = unpack_u32(step.fills)
                self.rows[number].fill = fills[2 * fills[::2].index(number) + 1]
        for seal, sealed in said.seals:
            self._sealed(seal, sealed)
        for (number, index, fill), code in zip(unpack_rows(step.completed, 3), reply.completed, strict=True):
            rows = [(at, block) for sequence, at, block in unpack_rows(reply.canonical, 3) if sequence == number]
            self._sealed(
                m.Seal(number, index, b""), m.Sealed(code, int(code == m.OK), pack_u32(chain.from_iterable(rows)))
            )
            if number in self.rows:
                self.rows[number].fill = max(self.rows[number].fill, fill)
        for fork, forked in said.forks:
            assert forked.code == m.OK, f"a fork: {forked.code}"
            self._forked(fork)
        for number, extended in extends_of(step, reply).items():
            self._extended(number, extended)
        for number, allocated in said.allocates.items():
            self._allocated(self.asked.pop(number), allocated)

    def _sealed(self, seal: m.Seal, sealed: m.Sealed) -> None:
        assert sealed.code in (m.OK, m.UNPUBLISHED), f"a seal: {sealed.code}"
        row = self.rows.get(seal.sequence)
        if row is None:
            return
        if sealed.code == m.UNPUBLISHED:
            row.may_seal = False
            return
        row.sealed = max(row.sealed, seal.first + sealed.sealed)
        numbers = unpack_u32(sealed.canonical)
        for index, block in zip(numbers[::2], numbers[1::2], strict=True):
            if row.table[index] != block:
                self.device.retire.swap(row.last_step, row.number, index, block)
                row.swapping[index], row.table[index] = row.table[index], block

    def _forked(self, fork: m.Fork) -> None:
        (number,), parent = unpack_u32(fork.children), self.rows.get(fork.parent)
        if parent is None:
            self.device.retire.release(self.device.step, number)
            return
        at = fork.tokens
        table = [parent.swapping.get(index, block) for index, block in enumerate(parent.table[: -(-at // SIZE)])]
        child = Row(
            parent.tenant, parent.chain.fork(at), table, at, at, parent.domain,
            task=parent.task, number=number, token=1 - parent.token, reported=at, may_seal=parent.may_seal,
        )  # fmt: skip
        child.written = child.launched = at
        child.last_step, child.forks = parent.last_step, parent.task.branches - 1
        child.sealing = child.sealed = min(parent.sealed, at // SIZE)
        self.rows[number] = child
        parent.forks, parent.growing = parent.forks + 1, False

    def _extended(self, number: int, reply: m.Extended) -> None:
        row = self.rows.get(number)
        assert reply.code in (m.OK, m.NO_SPACE), f"an extend: {reply.code}"
        if row is None:
            return
        row.growing = False
        if reply.code == m.OK:
            row.extended(reply)
            row.writable = len(row.table) * SIZE
        elif self.sim.random.random() < 0.3:
            self._preempt(row.task)

    def _allocated(self, ask: Ask, reply: m.Allocated) -> None:
        task, number = ask.task, ask.number
        if reply.code == m.OK:
            domain = PUBLIC if ask.item.publication else ""
            row = Row(task.tenant, ask.chain, [], 0, 0, domain, task=task, number=number)
            row.granted(reply)
            row.reported = row.fill
            self.rows[number] = row
        elif reply.code == m.CLAIMED:
            key = reply.claimed[-32:]
            body = m.Wait(number, key, "" if key else ask.item.publication)
            self.asked[number] = ask
            self.call(WAIT, body, lambda waited: self._waited(ask, waited), WAIT_S)
        elif reply.code == m.RETRY:
            self.asked[number] = ask
            self.refresh()
            self.later(10, self._again_after, ask, self.device)
        else:
            assert reply.code == m.NO_SPACE, f"an allocate: {reply.code}"
            self.tasks.remove(task)
            self.queue.append(task)

    def _waited(self, ask: Ask, waited: m.Waited) -> None:
        self._ask(ask.task, ask.number, ask.chain, int(waited.state != "deadline"))

    def _again_after(self, ask: Ask, device: Device) -> None:
        if device is self.device and self.state == READY_STATE:
            self._ask(ask.task, ask.number, ask.chain, ask.item.may_wait)
