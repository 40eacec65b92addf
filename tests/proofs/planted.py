"""Bugs, planted into the real store and client library from the outside: what the machine and the simulation must find.

Each is a mistake that a person could make, in one function, and is put in with a monkeypatch. None of them touches the
tests' own code, except that an engine may be made careless where the client library has no say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire_kvstore.blocks.pool import BlockPool
from quire_kvstore.ops import allocate, copies, extend, fill, fork, free, handoff, lifecycle, seal
from quire_kvstore.server import admin, dispatch, handlers, liveness
from quire_kvstore.sessions import reply_window
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.prefix_index import PrefixIndex
from quire_kvstore.state import State
from quire_proto import messages as m
from quire_proto.op_table import Op
from quire_proto.step import retire, token_chain
from quire_proto.wire import digests
from quire_proto.wire.u32 import unpack_u32

Patch = Callable[[pytest.MonkeyPatch], None]


def lost_decrement(patch: pytest.MonkeyPatch) -> None:
    """The last block of a table of three or more keeps its reference when the table is given back."""
    real = BlockPool.release

    def release(pool: BlockPool, ids: Any, quarantined: bool = False) -> None:
        real(pool, ids[:-1] if len(ids) > 2 else ids, quarantined)

    patch.setattr(BlockPool, "release", release)


def seal_before_write(patch: pytest.MonkeyPatch) -> None:
    """Fill marks are taken at their word for the whole capacity: what is allocated counts as written and is sealed."""

    def fill_sequence(state: State, sequence: Any, tokens: int) -> int:
        if not sequence.fill <= tokens:
            return m.CONFLICT
        sequence.fill = sequence.writable
        return m.OK

    for op in (fill, seal):
        patch.setattr(op, "fill_sequence", fill_sequence)


def domain_key_ignored(patch: pytest.MonkeyPatch) -> None:
    """Every tenant gets the same digest key."""
    real = digests.domain_key

    def domain_key(root_key: bytes, domain: str, generation: int) -> bytes:
        return real(root_key, "", 0)

    patch.setattr(handlers, "domain_key", domain_key)


def last_token_not_hashed(patch: pytest.MonkeyPatch) -> None:
    """A block's digest does not depend on its last token."""
    real = digests.link

    def link(begun: Any, parent: bytes, block: bytes) -> bytes:
        return real(begun, parent, block[:-4] + bytes(4))

    patch.setattr(digests, "link", link)
    patch.setattr(token_chain, "link", link)


def reuse_before_fence(patch: pytest.MonkeyPatch) -> None:
    """A lease that passed gives the blocks to the next one at once, although the process may still write."""

    def fence(state: State, session: Session, now_ms: int) -> None:
        free.reclaim(state, session)

    patch.setattr(lifecycle, "fence", fence)


def double_free(patch: pytest.MonkeyPatch) -> None:
    """A sequence that is given up gives its blocks back twice when another holds them too."""
    real = free._give_back

    def give_back(state: State, sequence: Any, quarantined: bool) -> None:
        real(state, sequence, quarantined)
        state.pool.release(np.array([b for b in sequence.table if state.pool.refs[b] > 0], np.int64), quarantined)

    patch.setattr(free, "_give_back", give_back)


def free_at_launch(patch: pytest.MonkeyPatch) -> None:
    """Releases go out at once instead of after the step that names the blocks has completed."""

    def drain_releases(self: retire.RetireList, held_back: Any = ()) -> list[int]:
        due = [sequence for _, sequence in self._releases]
        self._releases = []
        return due

    patch.setattr(retire.RetireList, "drain_releases", drain_releases)


def no_copy_on_write(patch: pytest.MonkeyPatch) -> None:
    """A fork writes into the unfull block that it shares."""
    patch.setattr(extend, "_shared_tail", lambda *_: None)


def copy_source_unpinned(patch: pytest.MonkeyPatch) -> None:
    """The source of a copy is given up when the copy is asked for."""
    real = copies.ask_copy

    def copy(state: State, session: Session, number: int, sequence: Any, src: int, dst: int, slots: int) -> bytes:
        row = real(state, session, number, sequence, src, dst, slots)
        copy_id = unpack_u32(row)[0]
        del sequence.copies[copy_id], session.copies[copy_id]
        state.pool.release(np.array([src], np.int64))
        return row

    for op in (allocate, extend):
        patch.setattr(op, "ask_copy", copy)


def resend_executed(patch: pytest.MonkeyPatch) -> None:
    """A request that comes twice is executed twice."""
    real = reply_window.ReplyWindow.repeated

    def repeated(self: reply_window.ReplyWindow, number: int, frame: bytes) -> bytes | None:
        return None if number == self.next_number - 1 else real(self, number, frame)

    def keep(self: reply_window.ReplyWindow, number: int, frame: bytes, reply: bytes) -> None:
        self.next_number = number + 1
        self._replies[number] = (reply_window._hash(frame), reply)

    patch.setattr(reply_window.ReplyWindow, "repeated", repeated)
    patch.setattr(reply_window.ReplyWindow, "keep", keep)


def adopted_by_both(patch: pytest.MonkeyPatch) -> None:
    """An adopted sequence stays in the ledger of its source too."""
    real = handoff.adopt

    def adopt(state: State, session: Session, identity: bytes, number: int) -> Any:
        made = state.offers.get(identity)
        reply = real(state, session, identity, number)
        if made is not None:
            made.source.sequences[made.number] = session.sequences[number]
        return reply

    patch.setattr(handoff, "adopt", adopt)


def evicted_and_still_a_hit(patch: pytest.MonkeyPatch) -> None:
    """The index goes on naming a block that was evicted."""
    real = PrefixIndex.remove

    def remove(self: PrefixIndex, blocks: Any) -> list[int]:
        first = next((self._by_block[block] for block in blocks[:1]), None)
        removed = real(self, blocks)
        if first is not None:
            self._by_digest[first.digest] = first
        return removed

    patch.setattr(PrefixIndex, "remove", remove)


def fork_takes_the_appender(patch: pytest.MonkeyPatch) -> None:
    """A child becomes the appender of the unfull block, which its parent goes on writing."""
    real = fork._child

    def child(state: State, parent: Any, table: Any, pins: Any, tokens: int) -> Any:
        made = real(state, parent, table, pins, tokens)
        if tokens % state.block_size:
            state.appender[table[-1]] = made.uid
        return made

    patch.setattr(fork, "_child", child)


def fenced_session_may_act(patch: pytest.MonkeyPatch) -> None:
    """A fenced session's requests are still executed."""
    real = dispatch.permit

    def check(op: Op[Any], session: Session | None) -> None:
        if session is None or session.state != "fenced":
            real(op, session)

    patch.setattr("quire_kvstore.server.dispatch.permit", check)


def gap_not_forgiven(patch: pytest.MonkeyPatch) -> None:
    """Leases go on running while the kvstore stands still."""
    patch.setattr(lifecycle, "forgive", lambda *_: None)


def account_lost(patch: pytest.MonkeyPatch) -> None:
    """Blocks that are granted stay charged to the account that had them before."""

    def grant(state: State, count: int, sequence: Any) -> Any:
        short = count - state.pool.free
        if short > 0:
            state.pool.unseal(np.array(state.index.remove(state.pool.victims(short)), np.int64))
        blocks = state.pool.allocate(count)
        state.appender[blocks] = sequence.uid
        return blocks

    patch.setattr(State, "grant", grant)


def window_of_one(patch: pytest.MonkeyPatch) -> None:
    """Only the last reply is kept for resends."""
    patch.setattr(reply_window, "WINDOW", 1)


def fenced_and_not_killed_but_reclaimed(patch: pytest.MonkeyPatch) -> None:
    """When the grace is over the blocks come back, whether the process is dead or not."""

    def end(self: liveness.Processes, session: Session) -> None:
        free.reclaim(self._service.state, session)

    patch.setattr(liveness.Processes, "_end", end)


def death_not_noticed(patch: pytest.MonkeyPatch) -> None:
    """The end of a process gives nothing back."""

    def died(self: liveness.Processes, connection: Any, event: str = "") -> None:
        for fd in (connection.socket.fileno(), connection.pidfd):
            if self._by_fd.pop(fd, None) is not None:
                self._poller.unregister(fd)

    patch.setattr(liveness.Processes, "_died", died)


def declaration_not_saved(patch: pytest.MonkeyPatch) -> None:
    """A publication is answered before it is on the disk, and never gets there."""
    patch.setattr(admin, "_save", lambda *_: ())


# What only a lossy wire, dying processes or a restart can show: for the simulation.
WIRE_BUGS: list[Patch] = [
    window_of_one,
    fenced_and_not_killed_but_reclaimed,
    death_not_noticed,
    declaration_not_saved,
]
BUGS: list[Patch] = [
    lost_decrement,
    seal_before_write,
    domain_key_ignored,
    last_token_not_hashed,
    reuse_before_fence,
    double_free,
    free_at_launch,
    no_copy_on_write,
    copy_source_unpinned,
    resend_executed,
    adopted_by_both,
    evicted_and_still_a_hit,
    fork_takes_the_appender,
    fenced_session_may_act,
    gap_not_forgiven,
    account_lost,
]
