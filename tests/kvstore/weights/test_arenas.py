"""Arenas of weights, without sockets: random lives, and what each rule says in one short life."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quire_kvstore.host.arena import ArenaError
from quire_kvstore.host.cuda_arena import DeviceFull
from quire_kvstore.weights.arenas import HUNG_MS, WeightsArenas
from quire_proto.messages import weights as w
from quire_proto.weights.manifest import Manifest
from quire_proto.wire.handles import CudaVmmFdHandle

KEEP_MS, CLAIM_MS, ROOM = 1000, 5000, 1000
ONE = (w.WeightTensor("a", "uint8", (8,), 0),)


@dataclass(eq=False)
class Memory:
    """Bytes of a GPU of ``ROOM`` bytes; who has written into them."""

    size: int
    gpu: Gpu
    fd: int = -1
    writers: set[int] = field(default_factory=set)
    closed: int = 0

    def handle(self) -> CudaVmmFdHandle:
        return CudaVmmFdHandle(self.size, "GPU-0", 0, 0, kind="weights")

    def close(self) -> None:
        self.closed += 1


class Gpu:
    """Memory, and a device that says no when it is full; mapped memory counts as long as a process maps it."""

    def __init__(self) -> None:
        self.made: list[Memory] = []
        self.broken = False

    def make(self, size: int) -> Memory:
        if self.broken:
            raise ArenaError("the driver refuses")
        if size + sum(memory.size for memory in self.made if not memory.closed) > ROOM:
            raise DeviceFull("full")
        self.made.append(Memory(size, self))
        return self.made[-1]


def arenas_of(gpu: Gpu) -> WeightsArenas:
    ids = count(1)
    return WeightsArenas(
        gpu.make, lambda: next(ids).to_bytes(16, "big"), lambda peer: int(str(peer)), KEEP_MS, CLAIM_MS
    )


class Lives(RuleBasedStateMachine):
    """Processes that claim, write, seal, read, bring, hang up and die in any order, and a device that is often full.

    What each process was told decides what it believes it may do; the machine holds the arenas to that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gpu = Gpu()
        self.arenas = arenas_of(self.gpu)
        self.now = 0
        self.peers = count(1)
        self.key_of: dict[int, bytes] = {}  # live peers
        self.may_write: dict[int, Memory | None] = {}
        self.reads: dict[int, Memory] = {}
        self.hung: set[int] = set()
        self.waits: set[int] = set()
        self.refused: set[int] = set()

    def tell(self) -> None:
        """What the processes learn."""
        while self.arenas.answers:
            peer, message = self.arenas.answers.popleft()
            assert isinstance(peer, int)
            if isinstance(message, w.YourWeights):
                self.waits.discard(peer)
                self.may_write[peer] = None
            elif isinstance(message, w.WriteWeights):
                self.may_write[peer] = self.memory_of(peer)
            elif isinstance(message, w.ReadWeights):
                self.waits.discard(peer)
                self.reads[peer] = self.memory_of(peer)
            elif isinstance(message, w.WaitWeights):
                self.waits.add(peer)
            elif isinstance(message, w.RefusedWeights):
                self.refused.add(peer)

    def memory_of(self, peer: int) -> Memory:
        arena: Any = self.arenas._of_peer[peer]
        memory: Memory = arena.memory
        return memory

    def writers(self) -> list[int]:
        return [p for p in self.may_write if p not in self.refused and p not in self.hung]

    @rule(key=st.sampled_from([b"k", b"l"]))
    def claim(self, key: bytes) -> None:
        peer = next(self.peers)
        self.key_of[peer] = key
        self.arenas.claim(peer, key, self.now)
        self.tell()

    @precondition(lambda self: self.writers())
    @rule(data=st.data(), size=st.sampled_from([8, 300, 600, 5000]))
    def make(self, data: st.DataObject, size: int) -> None:
        peer = data.draw(st.sampled_from(self.writers()))
        if self.may_write[peer] is None:
            self.arenas.make(peer, size, self.now)
            self.tell()

    @precondition(lambda self: self.writers())
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        """Only what no process reads is written, by one process."""
        peer = data.draw(st.sampled_from(self.writers()))
        memory = self.may_write[peer]
        if memory is not None:
            assert memory not in self.reads.values()
            memory.writers.add(peer)
            assert memory.writers == {peer}

    @precondition(lambda self: self.writers())
    @rule(data=st.data(), truly=st.booleans())
    def seal(self, data: st.DataObject, truly: bool) -> None:
        peer = data.draw(st.sampled_from(self.writers()))
        memory = self.may_write[peer]
        if memory is not None:
            self.arenas.declare(peer, ONE, self.now)
            self.arenas.seal(peer, 1 if truly else 2, self.now)
            if truly and any(isinstance(m, w.SealedWeights) and p == peer for p, m in self.arenas.answers):
                del self.may_write[peer]
                self.reads[peer] = memory
            self.tell()

    @precondition(lambda self: self.key_of)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(sorted(self.key_of)))
        self.hung.add(peer)
        self.arenas.hang_up(peer, self.now)
        self.tell()

    @precondition(lambda self: self.key_of)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(sorted(self.key_of)))
        del self.key_of[peer]
        self.may_write.pop(peer, None)
        self.reads.pop(peer, None)
        self.waits.discard(peer)
        self.arenas.leave(peer, self.now)
        self.tell()

    @rule(key=st.sampled_from([b"k", b"l"]), identity=st.sampled_from([bytes(16), b"\x09" * 16]))
    def bring(self, key: bytes, identity: bytes) -> None:
        peer = next(self.peers)
        self.key_of[peer] = key
        manifest = Manifest(8)
        manifest.add(ONE)
        memory = Memory(8, self.gpu)
        self.gpu.made.append(memory)
        self.arenas.bring(peer, key, identity, manifest, memory)
        self.tell()

    @rule(ms=st.sampled_from([1, 500, HUNG_MS, CLAIM_MS]))
    def wait(self, ms: int) -> None:
        self.now += ms
        self.arenas.judge(self.now)
        self.tell()

    @rule(broken=st.booleans())
    def driver(self, broken: bool) -> None:
        self.gpu.broken = broken

    @invariant()
    def rules_hold(self) -> None:
        self.arenas.check()
        for peer, memory in self.reads.items():
            assert not memory.closed, "a process still maps it"
            assert memory not in self.may_write.values() or peer in self.refused, "what is read has no writer"
        assert all(memory.closed <= 1 for memory in self.gpu.made)

    @invariant()
    def one_writer_of_a_key(self) -> None:
        active: dict[bytes, int] = {}
        for arena in self.arenas._by_key.values():
            if arena.writer is not None:
                active[arena.key] = active.get(arena.key, 0) + 1
        assert all(n == 1 for n in active.values())

    @invariant()
    def what_waits_waits_for_a_writer(self) -> None:
        for peer in self.waits & set(self.key_of) - self.hung - self.refused:
            assert self.arenas._by_key[self.key_of[peer]].writer is not None

    def teardown(self) -> None:
        """Once all processes are dead and the time is over nothing is left, on the device or in the tables."""
        for peer in list(self.key_of):
            self.arenas.leave(peer, self.now)
        self.arenas.judge(self.now + KEEP_MS)
        assert self.arenas.info(self.now) == ()
        assert not self.arenas._of_peer
        assert not self.arenas._waiters
        assert all(memory.closed == 1 for memory in self.gpu.made)


Lives.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLives = Lives.TestCase


def answers(arenas: WeightsArenas) -> list[tuple[Any, str]]:
    """(peer, type) of what was answered."""
    out = [(peer, getattr(message, "type", "manifest")) for peer, message in arenas.answers]
    arenas.answers.clear()
    return out


def sealed(arenas: WeightsArenas, peer: int, key: bytes, size: int = 8) -> None:
    arenas.claim(peer, key, 0)
    arenas.make(peer, size, 0)
    arenas.declare(peer, ONE, 0)
    arenas.seal(peer, 1, 0)
    arenas.answers.clear()


def test_all_but_the_first_wait_and_read_what_it_sealed() -> None:
    """One loads, the others get its manifest."""
    arenas = arenas_of(Gpu())
    for peer in (1, 2, 3):
        arenas.claim(peer, b"k", 0)
    assert answers(arenas) == [(1, "yours"), (2, "wait"), (3, "wait")]
    arenas.make(1, 8, 0)
    arenas.declare(1, ONE, 0)
    arenas.seal(1, 1, 0)
    assert answers(arenas) == [
        (1, "write"), (1, "sealed"), (2, "read"), (2, "manifest"), (3, "read"), (3, "manifest"),
    ]  # fmt: skip


def test_the_death_of_a_writer_gives_its_claim_and_none_of_its_memory_to_the_next() -> None:
    """What it may have written half is never read: the memory goes, the next one gets its own."""
    gpu = Gpu()
    arenas = arenas_of(gpu)
    arenas.claim(1, b"k", 0)
    arenas.make(1, 8, 0)
    arenas.claim(2, b"k", 0)
    arenas.leave(1, 0)
    assert gpu.made[0].closed == 1
    assert answers(arenas)[-1] == (2, "yours")
    arenas.make(2, 8, 0)
    assert len(gpu.made) == 2


def test_a_writer_that_hangs_up_and_lives_keeps_its_memory_and_loses_its_claim() -> None:
    """Its memory may still be written to, so it stays until the process is dead; the next does not wait for that."""
    gpu = Gpu()
    arenas = arenas_of(gpu)
    arenas.claim(1, b"k", 0)
    arenas.make(1, 8, 0)
    arenas.claim(2, b"k", 0)
    arenas.hang_up(1, 0)
    arenas.judge(HUNG_MS - 1)
    assert (2, "yours") not in answers(arenas)
    arenas.judge(HUNG_MS)
    assert answers(arenas) == [(2, "yours")]
    assert [(one.state, one.size) for one in arenas.info(HUNG_MS)] == [("claimed", 0), ("abandoned", 8)]
    assert not gpu.made[0].closed
    arenas.leave(1, HUNG_MS)
    assert gpu.made[0].closed


def test_a_silent_writer_loses_its_claim_and_a_beat_keeps_it() -> None:
    """The lease counts from what was last heard."""
    arenas = arenas_of(Gpu())
    arenas.claim(1, b"k", 0)
    arenas.beat(1, 10)
    arenas.judge(CLAIM_MS)
    assert answers(arenas) == [(1, "yours")]
    arenas.judge(CLAIM_MS + 10)
    assert answers(arenas) == [(1, "refused")]
    arenas.make(1, 8, CLAIM_MS + 10)
    assert answers(arenas) == [(1, "refused")]


def test_sealed_weights_stay_for_the_next_engine_and_go_after_their_time() -> None:
    """A restarted engine finds them; an upgrade's leftovers do not stay for ever."""
    gpu = Gpu()
    arenas = arenas_of(gpu)
    sealed(arenas, 1, b"k")
    arenas.leave(1, 100)
    arenas.judge(100 + KEEP_MS - 1)
    arenas.claim(2, b"k", 100 + KEEP_MS - 1)
    assert answers(arenas)[0] == (2, "read")
    arenas.leave(2, 5000)
    arenas.judge(5000 + KEEP_MS)
    assert gpu.made[0].closed == 1
    assert arenas.info(6000) == ()


def test_idle_weights_make_room_for_others_and_mapped_ones_do_not() -> None:
    """What no process maps goes first; where all is mapped there is no space."""
    gpu = Gpu()
    arenas = arenas_of(gpu)
    sealed(arenas, 1, b"k", 600)
    arenas.claim(2, b"l", 0)
    arenas.make(2, 600, 0)
    assert answers(arenas) == [(2, "yours"), (2, "refused")]
    arenas.leave(2, 0)
    arenas.leave(1, 0)
    arenas.claim(3, b"l", 0)
    arenas.make(3, 600, 0)
    assert answers(arenas) == [(3, "yours"), (3, "write")]
    assert [memory.closed for memory in gpu.made] == [1, 0]


def test_a_refused_size_lets_the_next_one_try() -> None:
    """No waiter hangs on a writer that got no memory."""
    arenas = arenas_of(Gpu())
    arenas.claim(1, b"k", 0)
    arenas.claim(2, b"k", 0)
    arenas.make(1, ROOM + 1, 0)
    assert answers(arenas)[-2:] == [(1, "refused"), (2, "yours")]


@pytest.mark.parametrize(("count_", "tensors"), [(2, ONE), (0, ONE), (1, (w.WeightTensor("a", "uint8", (9,), 0),))])
def test_a_wrong_manifest_seals_nothing(count_: int, tensors: tuple[w.WeightTensor, ...]) -> None:
    """Too few, too many, beyond the end: refused, and the claim goes on."""
    arenas = arenas_of(Gpu())
    arenas.claim(1, b"k", 0)
    arenas.claim(2, b"k", 0)
    arenas.make(1, 8, 0)
    arenas.declare(1, tensors, 0)
    arenas.seal(1, count_, 0)
    told = answers(arenas)
    assert (1, "refused") in told
    assert (1, "sealed") not in told
    assert (2, "yours") in told


def test_what_is_brought_is_shared_by_its_id_and_refused_beside_another() -> None:
    """After a restart of the kvstore the first to come back brings its arena, the second joins it."""
    gpu = Gpu()
    arenas = arenas_of(gpu)
    manifest = Manifest(8)
    manifest.add(ONE)
    memories = [Memory(8, gpu) for _ in range(3)]
    arenas.bring(1, b"k", b"i" * 16, manifest, memories[0])
    arenas.bring(2, b"k", b"i" * 16, manifest, memories[1])
    arenas.bring(3, b"k", b"j" * 16, manifest, memories[2])
    arenas.claim(4, b"k", 0)
    assert answers(arenas) == [(1, "sealed"), (2, "sealed"), (3, "refused"), (4, "read"), (4, "manifest")]
    assert [memory.closed for memory in memories] == [0, 1, 1]
    assert arenas.info(0)[0].readers == 3


def test_a_foreign_key_and_a_second_claim_get_nothing() -> None:
    """A key is 1 to 64 bytes, and a connection has one."""
    arenas = arenas_of(Gpu())
    arenas.claim(1, b"", 0)
    arenas.claim(2, bytes(65), 0)
    arenas.claim(3, b"k", 0)
    arenas.claim(3, b"l", 0)
    assert answers(arenas) == [(1, "refused"), (2, "refused"), (3, "yours"), (3, "refused")]


def test_a_second_writer_is_refused_whatever_it_sends() -> None:
    """Making, declaring and sealing are the writer's; a waiter's and a reader's are refused."""
    arenas = arenas_of(Gpu())
    sealed(arenas, 1, b"k")
    arenas.claim(2, b"k", 0)
    answers(arenas)
    arenas.make(2, 8, 0)
    arenas.declare(2, ONE, 0)
    arenas.seal(2, 1, 0)
    assert answers(arenas) == [(2, "refused")] * 3
    assert len(arenas.info(0)) == 1
