"""Bugs planted into claims, and into the copy of a shared prompt's last block, as ``planted`` does it."""

from __future__ import annotations

from typing import Any

import pytest

from quire_kvstore.ops import allocate
from quire_kvstore.sharing.claims import SEALED, YOURS, Claims
from tests.proofs.planted import Patch


def waiters_of_the_dead_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A session that is gone takes its claims along, and those that waited for them are told nothing."""

    def leave_session(self: Claims, session: bytes) -> None:
        for claim in [claim for claim in self.all() if claim.holder[0] == session]:
            self._dissolve(claim)

    patch.setattr(Claims, "leave_session", leave_session)


def two_heirs(patch: pytest.MonkeyPatch) -> None:
    """A claim that passes on is told to two waiters, and both compute."""
    real = Claims._pass_on

    def pass_on(self: Claims, claim: Any) -> None:
        real(self, claim)
        for waiter in list(claim.waiters.values())[:1]:
            self._answer(claim, waiter, YOURS)

    patch.setattr(Claims, "_pass_on", pass_on)


def told_at_the_first_seal(patch: pytest.MonkeyPatch) -> None:
    """Waiters are told when the first block of a claim is sealed, not when theirs is."""
    real = Claims.sealed

    def sealed(self: Claims, keys: Any) -> None:
        keys = list(keys)
        for key in keys:
            claim = self.of_key(key)
            for waiter in list(claim.waiters.values()) if claim is not None else []:
                assert claim is not None
                self._answer(claim, waiter, SEALED)
        real(self, keys)

    patch.setattr(Claims, "sealed", sealed)


def claimed_by_both(patch: pytest.MonkeyPatch) -> None:
    """A sequence that computes in spite of a claim takes it over."""
    patch.setattr(allocate, "_unclaimed", lambda _state, keys, _holder: list(dict.fromkeys(keys)))


def no_patience(patch: pytest.MonkeyPatch) -> None:
    """An owner without progress keeps its claim for ever."""
    real = Claims.judge

    def judge(self: Claims) -> None:
        for claim in self.all():
            claim.since_ms = self.now_ms
        real(self)

    patch.setattr(Claims, "judge", judge)


def last_block_shared_in_place(patch: pytest.MonkeyPatch) -> None:
    """Of a prompt that ends at a block edge the last block is called computed, though nothing is copied."""
    patch.setattr(allocate, "ask_copy", lambda *_: b"")


CLAIM_BUGS: list[Patch] = [
    waiters_of_the_dead_forgotten,
    two_heirs,
    told_at_the_first_seal,
    claimed_by_both,
    no_patience,
    last_block_shared_in_place,
]
