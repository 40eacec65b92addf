"""Bugs that only clients without rules can reach, planted as ``planted`` does it: for the crowd (``tests.kvstore``)."""

from __future__ import annotations

from typing import Any

import pytest

from quire_kvstore.events.catalogue import Catalogue
from quire_kvstore.ops import allocate, extend
from quire_kvstore.server import handlers
from quire_kvstore.server.dispatch import Dispatch
from quire_kvstore.sharing import groups
from quire_kvstore.sharing.claims import DEADLINE, Claims, Waiter
from quire_kvstore.state import State
from tests.proofs.planted import Patch


def successor_keeps_its_claim_while_it_waits(patch: pytest.MonkeyPatch) -> None:
    """A successor may wait for another claim: when that passes to it too, the one it inherited is lost."""

    def wait(self: Claims, holder: Any, key: bytes, ticket: Any, priority: int, until_ms: int) -> bool:
        self._end_wait(holder, DEADLINE)
        claim = self.of_others(key, holder)
        if claim is None:
            return False
        self._join(claim, Waiter(holder, ticket, claim.keys.index(key) + 1, priority, until_ms))
        return True

    patch.setattr(Claims, "wait", wait)


def fork_into_a_waiting_number(patch: pytest.MonkeyPatch) -> None:
    """A child gets the number of a sequence that waits."""
    patch.setattr(State, "in_use", lambda _state, session, number: number in session.sequences)


def scrub_forgotten_with_a_fork(patch: pytest.MonkeyPatch) -> None:
    """The last sequence that shares a block may write it, though none is known to have zeroed it."""
    real = extend._shared_tail

    def shared_tail(state: Any, sequence: Any) -> int | None:
        index = real(state, sequence)
        block = None if index is None else int(sequence.table[index])
        sole = block is not None and int(state.pool.refs[block]) == 1 and not bool(state.pool.sealed[block])
        return None if sole else index

    patch.setattr(extend, "_shared_tail", shared_tail)


def declaration_dropped_with_its_session(patch: pytest.MonkeyPatch) -> None:
    """What is on its way to the disk is forgotten when the session that asked for it ends."""
    real = Dispatch._execute

    def execute(self: Dispatch, task: Any, request: Any, op: Any, slices: Any) -> Any:
        if op.name not in ("step", "allocate", "free"):
            self._session(request)
        return real(self, task, request, op, slices)

    patch.setattr(Dispatch, "_execute", execute)


def group_called_like_the_quarantine(patch: pytest.MonkeyPatch) -> None:
    """A group may have the name under which the quarantine is listed."""
    patch.setattr("quire_kvstore.server.admin.RESERVED", (groups.PUBLIC,))
    patch.setattr("quire_kvstore.sharing.groups.RESERVED", (groups.PUBLIC,))


def hit_beyond_anothers_limit(patch: pytest.MonkeyPatch) -> None:
    """A hit under made-up digests charges another tenant for what it had in the quarantine."""
    patch.setattr(allocate, "_chargeable", lambda _state, _tenant, hit: hit)


def priority_that_no_row_can_hold(patch: pytest.MonkeyPatch) -> None:
    """Priorities are taken as they come, and told in rows of 32 bits."""
    patch.setattr(allocate, "U32_MAX", 1 << 62)
    patch.setattr(handlers, "U32_MAX", 1 << 62)


def evicted_block_takes_its_publications_name(patch: pytest.MonkeyPatch) -> None:
    """A block that was sealed under a publication's name takes the name along when it is evicted."""
    real = Catalogue.apply

    def apply(self: Catalogue, changes: Any) -> Any:
        for digest in changes.removed:
            self._announced.pop(digest, None)
        yield from real(self, changes)

    patch.setattr(Catalogue, "apply", apply)


HOSTILE_BUGS: list[Patch] = [
    successor_keeps_its_claim_while_it_waits,
    fork_into_a_waiting_number,
    scrub_forgotten_with_a_fork,
    declaration_dropped_with_its_session,
    group_called_like_the_quarantine,
    hit_beyond_anothers_limit,
    priority_that_no_row_can_hold,
    evicted_block_takes_its_publications_name,
]
