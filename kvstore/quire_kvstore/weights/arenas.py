"""Arenas of weights: one for each key, written by one process, read by any number once it is sealed.

    claimed -> made -> sealed -> idle (no process maps it) -> dropped, after a time or for another one's space
       |         |
       +---------+--> abandoned (the claim went to the next) -> dropped, once nothing maps it

Functions of (state, peer, now): no socket, no clock and no driver in here; ``make`` gives memory, answers are queued.

Invariants (``check``):
- of a key at most one process may write, and it writes to memory that no other process was ever given;
- a reader is given sealed memory only, and what is sealed has a complete manifest;
- memory is given up when no process maps it, never before, and by all ways exactly once;
- what a writer that failed may have written is never read: the next one gets memory of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from quire_kvstore.host.arena import Arena, ArenaError
from quire_kvstore.host.cuda_arena import DeviceFull
from quire_proto.messages import weights as w
from quire_proto.messages.query import WeightsInfo
from quire_proto.weights.manifest import BadManifest, Manifest

from .invariants import check_weights
from .record import WeightsArena, WeightsUser, row_of

MAX_KEY_BYTES = 64
HUNG_MS = 2000  # that a writer which hung up has to die, before its claim goes on to the next
NO_SPACE = "NO_SPACE"


class WeightsArenas:
    """All arenas of weights of a GPU.

    Args:
        make: memory of so many bytes. Raises ArenaError.
        new_id: a random id.
        pid_of: process of a peer, for people.
        keep_ms: how long an arena that no process maps stays.
        claim_ms: how long a writer may be silent.
    """

    def __init__(
        self,
        make: Callable[[int], Arena],
        new_id: Callable[[], bytes],
        pid_of: Callable[[WeightsUser], int],
        keep_ms: int,
        claim_ms: int,
    ) -> None:
        self._make, self._new_id, self._pid_of = make, new_id, pid_of
        self._keep_ms, self._claim_ms = keep_ms, claim_ms
        self._by_key: dict[bytes, WeightsArena] = {}
        self._waiters: dict[bytes, deque[WeightsUser]] = {}
        self._abandoned: list[WeightsArena] = []
        self._of_peer: dict[WeightsUser, WeightsArena | bytes] = {}  # what it maps or claims, or the key it waits for
        self.answers: deque[tuple[WeightsUser, object]] = deque()

    def claim(self, peer: WeightsUser, key: bytes, now_ms: int) -> None:
        """A process wants the weights of a key."""
        if peer in self._of_peer:
            return self._refuse(peer, "CONFLICT", "a connection asks for one key, once")
        if not 0 < len(key) <= MAX_KEY_BYTES:
            return self._refuse(peer, "BAD_FIELD", f"key: 1 to {MAX_KEY_BYTES} bytes")
        arena = self._by_key.get(key)
        if arena is None:
            self._grant(peer, key, now_ms)
        elif arena.sealed:
            self._read(peer, arena)
        else:
            self._waiters.setdefault(key, deque()).append(peer)
            self._of_peer[peer] = key
            self._answer(peer, w.WaitWeights(self._pid_of(arena.writer)))
        return None

    def make(self, peer: WeightsUser, size: int, now_ms: int) -> None:
        """The writer knows its size: make the memory, if need be in the place of arenas that no process maps."""
        arena = self._written_by(peer)
        if arena is None or arena.memory is not None:
            return self._refuse(peer, "CONFLICT", "no claim of this connection waits for memory")
        if not size:
            self._refuse(peer, "BAD_FIELD", "size: weights have at least one byte")
            return self._abandon(arena, now_ms)
        try:
            arena.memory = self._memory(size)
        except ArenaError as exc:
            self._refuse(peer, NO_SPACE, str(exc))
            return self._abandon(arena, now_ms)
        arena.size, arena.manifest, arena.heard_ms = size, Manifest(size), now_ms
        self._answer(peer, w.WriteWeights(arena.id, arena.memory.handle()))
        return None

    def declare(self, peer: WeightsUser, tensors: tuple[w.WeightTensor, ...], now_ms: int) -> None:
        """Tensors that the writer has written, or will have."""
        arena = self._written_by(peer)
        if arena is None or arena.memory is None:
            return self._refuse(peer, "CONFLICT", "this connection has no memory to declare tensors of")
        arena.heard_ms = now_ms
        try:
            arena.manifest.add(tensors)
        except BadManifest as exc:
            self._refuse(peer, "BAD_FIELD", str(exc))
            self._abandon(arena, now_ms)
        return None

    def seal(self, peer: WeightsUser, count: int, now_ms: int) -> None:
        """All is written: whoever waits may read."""
        arena = self._written_by(peer)
        if arena is None or arena.memory is None:
            return self._refuse(peer, "CONFLICT", "this connection has no memory to seal")
        try:
            arena.manifest.complete(count)
        except BadManifest as exc:
            self._refuse(peer, "BAD_FIELD", str(exc))
            return self._abandon(arena, now_ms)
        arena.sealed, arena.writer = True, None
        self._answer(peer, w.SealedWeights())
        for waiter in self._waiters.pop(arena.key, ()):
            self._read(waiter, arena)
        return None

    def beat(self, peer: WeightsUser, now_ms: int) -> None:
        """The writer works on it; from any other this says nothing."""
        if (arena := self._written_by(peer)) is not None:
            arena.heard_ms = now_ms

    def bring(self, peer: WeightsUser, key: bytes, identity: bytes, manifest: Manifest, memory: Arena) -> None:
        """A process maps what an earlier life made; ``memory`` becomes ours, or is closed."""
        known = self._by_key.get(key)
        why = ""
        if peer in self._of_peer or not 0 < len(key) <= MAX_KEY_BYTES:
            why = f"a connection brings one arena, once, under a key of 1 to {MAX_KEY_BYTES} bytes"
        elif known is not None and (known.id, known.sealed, known.size) != (identity, True, manifest.size):
            why = "there is another arena of this key by now: start this process again to share it"
        if why or known is not None:
            memory.close()
        if why:
            return self._refuse(peer, "CONFLICT", why)
        if known is None:
            known = WeightsArena(identity, key, memory, manifest.size, manifest=manifest, sealed=True)
            self._by_key[key] = known
        known.users.add(peer)
        self._of_peer[peer] = known
        self._answer(peer, w.SealedWeights())
        return None

    def hang_up(self, peer: WeightsUser, now_ms: int) -> None:
        """Its connection ended, and it may still map what it had."""
        arena = self._of_peer.get(peer)
        if isinstance(arena, bytes):
            self.leave(peer, now_ms)  # it has nothing yet
        elif arena is not None and arena.writer == peer:
            arena.hung, arena.heard_ms = True, now_ms

    def leave(self, peer: WeightsUser, now_ms: int) -> None:
        """It maps nothing any more: it has said so, or is dead."""
        arena = self._of_peer.pop(peer, None)
        if isinstance(arena, bytes):
            self._waiters[arena].remove(peer)
            if not self._waiters[arena]:
                del self._waiters[arena]
        elif arena is not None:
            arena.users.discard(peer)
            if arena.writer == peer:
                self._abandon(arena, now_ms)
            elif arena.abandoned:
                self._drop_if_unused(arena)
            elif not arena.users:
                arena.heard_ms = now_ms

    def judge(self, now_ms: int) -> None:
        """Give on the claims of writers that are silent, and drop what no process has mapped for long."""
        for arena in list(self._by_key.values()):
            silent = now_ms - arena.heard_ms
            if arena.writer is not None and silent >= (HUNG_MS if arena.hung else self._claim_ms):
                if not arena.hung:
                    self._refuse(arena.writer, "DEADLINE", f"nothing was heard of the writer for {silent} ms")
                self._abandon(arena, now_ms)
            elif arena.is_idle and silent >= self._keep_ms:
                self._drop(arena)

    def knows(self, peer: WeightsUser) -> bool:
        """Whether it holds or awaits anything."""
        return peer in self._of_peer

    def fd_of(self, peer: WeightsUser) -> int:
        """Descriptor of the memory that a peer was given, -1 if there is none."""
        arena = self._of_peer.get(peer)
        return arena.memory.fd if isinstance(arena, WeightsArena) and arena.memory is not None else -1

    def info(self, now_ms: int) -> tuple[WeightsInfo, ...]:
        """All arenas, for people."""
        waiters = self._waiters
        return tuple(
            row_of(arena, 0 if arena.abandoned else len(waiters.get(arena.key, ())), self._pid_of, now_ms)
            for arena in (*self._by_key.values(), *self._abandoned)
        )

    def close(self) -> None:
        """Give up all memory: the kvstore ends."""
        for arena in (*self._by_key.values(), *self._abandoned):
            if arena.memory is not None:
                arena.memory.close()
        self._by_key.clear()
        self._abandoned.clear()

    def check(self) -> None:
        """Assert the invariants."""
        check_weights(self._by_key, self._abandoned, self._waiters, self._of_peer)

    def _grant(self, peer: WeightsUser, key: bytes, now_ms: int) -> None:
        arena = WeightsArena(self._new_id(), key, writer=peer, users={peer}, heard_ms=now_ms)
        self._by_key[key] = self._of_peer[peer] = arena
        self._answer(peer, w.YourWeights(self._claim_ms))

    def _read(self, peer: WeightsUser, arena: WeightsArena) -> None:
        assert arena.memory is not None, "sealed"
        arena.users.add(peer)
        self._of_peer[peer] = arena
        tensors = tuple(arena.manifest.tensors.values())
        self._answer(peer, w.ReadWeights(arena.id, arena.memory.handle(), len(tensors)))
        self._answer(peer, tensors)

    def _abandon(self, arena: WeightsArena, now_ms: int) -> None:
        """Its writer failed: no process is given this memory any more, and the next one that waits may write."""
        arena.abandoned, arena.writer = True, None
        del self._by_key[arena.key]
        self._abandoned.append(arena)
        if arena.memory is None:
            for user in arena.users:
                del self._of_peer[user]
            arena.users.clear()
        self._drop_if_unused(arena)
        waiters = self._waiters.pop(arena.key, None)
        if waiters:
            successor = waiters.popleft()
            if waiters:
                self._waiters[arena.key] = waiters
            self._grant(successor, arena.key, now_ms)

    def _memory(self, size: int) -> Arena:
        while True:
            try:
                return self._make(size)
            except DeviceFull:
                idle = [arena for arena in self._by_key.values() if arena.is_idle]
                if not idle:
                    raise
                self._drop(min(idle, key=lambda arena: arena.heard_ms))

    def _drop_if_unused(self, arena: WeightsArena) -> None:
        if not arena.users:
            self._abandoned.remove(arena)
            if arena.memory is not None:
                arena.memory.close()

    def _drop(self, arena: WeightsArena) -> None:
        assert arena.memory is not None, "sealed"
        del self._by_key[arena.key]
        arena.memory.close()

    def _written_by(self, peer: WeightsUser) -> WeightsArena | None:
        arena = self._of_peer.get(peer)
        return arena if isinstance(arena, WeightsArena) and arena.writer == peer else None

    def _refuse(self, peer: WeightsUser, code: str, message: str) -> None:
        self._answer(peer, w.RefusedWeights(code, message))

    def _answer(self, peer: WeightsUser, message: object) -> None:
        self.answers.append((peer, message))
