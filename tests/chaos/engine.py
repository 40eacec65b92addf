"""An engine without a model: it stamps every block it writes and verifies all it reads, with the client library.

    python -m tests.chaos.engine RUN_DIR NAME SEED

Steps are those of an engine: what the last one wrote is acknowledged and sealed, sequences grow, branch and end, copies
run first, releases wait for completion. When the session is lost it attaches again and begins anew. It reports a line
of JSON about every half second, and ends with status 3 at the first foreign byte.
"""

from __future__ import annotations

import faulthandler
import json
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from quire_proto import messages as m
from quire_proto.client.client import KVClient
from quire_proto.step.retire import RetireList
from quire_proto.step.step_builder import Results, StepBuilder, results
from quire_proto.step.token_chain import DomainChain
from quire_proto.wire.errors import QuireError
from quire_proto.wire.layout import Layout
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32
from tests.proofs.extends import extends_of
from tests.support.stamped_arena import PUBLIC, ForeignBytes, StampedArena

FOREIGN = 3
ROWS, PROMPT, GROW, PAUSE_S = 6, 40, 6, 0.002
LAYOUT = Layout("chaos", "w0", "{}", "", "float32", 4, 1, 1, 8)
SIZE = LAYOUT.block_size
PUBLISHED = list(range(10))


@dataclass(eq=False)
class Row:
    """A sequence: ``fill`` of its tokens are written; ``total`` is where it ends."""

    number: int
    tenant: str
    chain: DomainChain
    total: int
    shared: int
    table: list[int] = field(default_factory=list)
    fill: int = 0
    writable: int = 0
    sealed: int = 0
    may_seal: bool = True
    copies: list[tuple[int, ...]] = field(default_factory=list)
    scrubs: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """Tokens so far."""
        return list(unpack_u32(self.chain.tokens))

    def granted(self, reply: m.Allocated | m.Extended, first: int) -> None:
        """Take blocks over, and what must be done before they are written."""
        self.table[first:] = [*unpack_u32(reply.blocks)] if reply.blocks else self.table[first:]
        self.writable = len(self.table) * SIZE
        self.copies += unpack_rows(reply.copies, 4)
        self.scrubs += unpack_u32(reply.scrub)


@dataclass
class Counts:
    """What happened since the process started; ``step_ms`` since the last report."""

    attached: int = 0
    steps: int = 0
    finished: int = 0
    blocks_read: int = 0
    blocks_written: int = 0
    step_ms: list[float] = field(default_factory=list)


class Engine:
    """One session."""

    def __init__(self, client: KVClient, rng: random.Random, counts: Counts) -> None:
        self.client, self.rng, self.counts = client, rng, counts
        self.arena = StampedArena.mapped(client.map(), LAYOUT, client.num_blocks)
        self.retire = RetireList()
        self.builder = StepBuilder(self.retire)
        self.rows: dict[int, Row] = {}
        self.asked: dict[int, Row] = {}
        self.next = self.step = 0

    def run(self, report: Any) -> None:
        """Work until the session is lost (QuireError) or a foreign byte is found (ForeignBytes)."""
        while True:
            if self.client.lost_reason is not None:
                raise self.client.lost_reason  # nothing may be left to say, and no call would tell
            for row in list(self.rows.values()):
                self._work(row)
            self.retire.complete(self.step)
            self.client.progress = self.step + 1
            self.step += 1
            self._say()
            report()
            time.sleep(self.rng.random() * PAUSE_S)

    def _work(self, row: Row) -> None:
        """One step of one sequence: copies, then read all that it has, then write. Nothing past the lease."""
        if not self.client.lease_valid():
            return
        for block in row.scrubs:
            self.arena.scrub(block)
        row.scrubs = []
        for copy_id, src, dst, slots in row.copies:
            self.arena.copy(src, dst, slots)
            self.retire.copy_done(self.step, copy_id)
        row.copies = []
        self.arena.read(row.table, row.tokens, row.fill, {row.tenant: row.fill, PUBLIC: row.shared})
        self.counts.blocks_read += -(-row.fill // SIZE)
        upto = min(row.writable, row.total, row.fill + self.rng.randint(1, 3 * SIZE))
        if upto > row.fill:
            row.chain.append([self.rng.randrange(3) for _ in range(upto - len(row.chain))])
            self.arena.write(row.table, row.tokens, row.fill, min(row.shared, upto), PUBLIC)
            self.arena.write(row.table, row.tokens, max(row.shared, row.fill), upto, row.tenant)
            self.counts.blocks_written += upto // SIZE - row.fill // SIZE
            row.fill = upto
            self.builder.fill(row.number, row.fill)

    def _say(self) -> None:
        for row in list(self.rows.values()):
            full = row.fill // SIZE
            if row.may_seal and full == row.sealed + 1 and self.rng.random() < 0.5:
                self.builder.complete(row.number, row.sealed, row.fill, row.chain.digests(row.sealed, full))
            elif row.may_seal and full > row.sealed:
                self.builder.seal(row.number, row.sealed, row.chain.digests(row.sealed, full))
            if row.fill >= row.total:
                self._end(row)
                self.counts.finished += 1
            elif row.fill == row.writable:
                self.builder.extend(row.number, min(row.total, row.writable + self.rng.randint(1, 3 * SIZE)))
            elif self.rng.random() < 0.03 and len(self.rows) < ROWS:
                self._fork(row)
        if len(self.rows) < ROWS:
            self._ask()
        step = self.builder.build()
        if step is not None:
            began = time.monotonic()
            reply = self.client.step(step)
            self.counts.step_ms.append((time.monotonic() - began) * 1000)
            self.counts.steps += 1
            self._apply(step, reply, results(step, reply))

    def _end(self, row: Row) -> None:
        del self.rows[row.number]
        self.retire.release(self.step, row.number)

    def _ask(self) -> None:
        tenant = self.rng.choice("ab")
        tokens = [self.rng.randrange(2)] * self.rng.randint(1, 2 * SIZE)
        if self.rng.random() < 0.4:
            tokens = PUBLISHED + tokens
        tokens += [self.rng.randrange(2) for _ in range(self.rng.randint(0, SIZE))]
        packed = pack_u32(tokens)
        found = self.client.match(tenant, packed)
        self.next += 1
        row = Row(self.next, tenant, self.client.chain(tenant, packed), len(tokens) + self.rng.randint(1, PROMPT), 0)
        named: dict[str, Any] = {}
        if found is not None:
            row.shared = len(found.tokens) // 4
            named = {"publication": found.id, "publication_generation": found.generation}
        self.asked[row.number] = row
        self.builder.allocate(m.Allocate(row.number, tenant, len(tokens), row.chain.digests(), **named))

    def _fork(self, row: Row) -> None:
        """A branch at what is acknowledged with this step; its table is the parent's."""
        self.next += 1
        child = Row(self.next, row.tenant, row.chain.fork(row.fill), row.total, row.shared, may_seal=row.may_seal)
        child.table, child.fill = row.table[: -(-row.fill // SIZE)], row.fill
        child.writable, child.sealed = row.fill, min(row.sealed, row.fill // SIZE)
        self.asked[child.number] = child
        self.builder.fork(row.number, [child.number], row.fill)

    def _apply(self, step: m.Step, reply: m.Stepped, said: Results) -> None:
        for kind in ("releases", "swaps", "fills"):
            codes = set(getattr(said, kind).values())
            assert codes <= {m.OK}, f"{kind}: {getattr(said, kind)}"
        for seal, sealed in said.seals:
            assert sealed.code in (m.OK, m.UNPUBLISHED), f"seal: {sealed.code}"
            self._sealed(self.rows.get(seal.sequence), seal, sealed)
        self._completed(step, reply)
        for fork, forked in said.forks:
            assert forked.code == m.OK, f"fork: {forked.code}"
            child = self.asked.pop(unpack_u32(fork.children)[0])
            self.rows[child.number] = child
        for number, extended in extends_of(step, reply).items():
            assert extended.code in (m.OK, m.NO_SPACE), f"extend: {extended.code}"
            if extended.code == m.OK:
                self.rows[number].granted(extended, extended.first)
            elif self.rng.random() < 0.5:
                self._end(self.rows[number])  # preempted
        for number, allocated in said.allocates.items():
            row = self.asked.pop(number)
            if allocated.code == m.OK:
                row.granted(allocated, 0)
                row.fill = allocated.computed
                self.rows[number] = row
            elif allocated.code == m.RETRY:
                self.client.refresh_publications()
            else:
                assert allocated.code == m.NO_SPACE, f"allocate: {allocated.code}"

    def _completed(self, step: m.Step, reply: m.Stepped) -> None:
        for (number, index, _), code in zip(unpack_rows(step.completed, 3), reply.completed, strict=True):
            assert code in (m.OK, m.UNPUBLISHED), f"completed: {code}"
            rows = [(at, block) for sequence, at, block in unpack_rows(reply.canonical, 3) if sequence == number]
            sealed = m.Sealed(code, int(code == m.OK), pack_u32(chain.from_iterable(rows)))
            self._sealed(self.rows.get(number), m.Seal(number, index, b""), sealed)

    def _sealed(self, row: Row | None, seal: m.Seal, sealed: m.Sealed) -> None:
        if row is None:
            return
        row.may_seal = sealed.code == m.OK
        row.sealed = max(row.sealed, seal.first + sealed.sealed)
        for index, block in unpack_rows(sealed.canonical, 2):
            if row.table[index] != block:
                self.retire.swap(self.step - 1, row.number, index, block)
                row.table[index] = block


class Reporter:
    """Prints counts, not too often."""

    def __init__(self, counts: Counts) -> None:
        self._counts, self._next = counts, 0.0

    def __call__(self, event: str = "") -> None:
        """A line, if one is due or something happened."""
        now = time.monotonic()
        if event or now >= self._next:
            self._next = now + 0.5
            line = {"t": now, "event": event, **vars(self._counts)}
            print(json.dumps(line), flush=True)
            self._counts.step_ms = []


def main(run_dir: str, name: str, seed: int) -> int:
    """Attach, work, and attach again, until SIGTERM."""
    rng, counts = random.Random(seed), Counts()
    report = Reporter(counts)

    def terminate(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, terminate)
    faulthandler.register(signal.SIGUSR1)  # of all threads: asked for when we do not come back
    while True:
        try:
            with KVClient(run_dir, name=name, layout=LAYOUT, timeout=3.0, resend=0.3) as client:
                counts.attached += 1
                report("attached")
                engine = Engine(client, rng, counts)
                try:
                    engine.run(report)
                finally:
                    engine.arena.close()
        except SystemExit:
            report("left")
            raise
        except ForeignBytes as exc:
            report(f"foreign bytes: {exc}")
            return FOREIGN
        except QuireError as exc:
            report(f"lost: {exc}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
