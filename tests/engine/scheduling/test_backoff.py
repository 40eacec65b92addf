"""Quiet times by account, and when a shortage is a new one."""

from __future__ import annotations

import pytest

from quire_engine.scheduling.backoff import ALL_ACCOUNTS, SAME_SHORTAGE_S, Backoff


def test_one_account_s_quiet_time_is_not_another_s() -> None:
    """A time for all accounts counts for each; times that are over are forgotten."""
    backoff = Backoff()
    backoff.defer("a", 1000, 10.0)
    assert backoff.remaining_s(["a", "b"], 10.5) == 0.0
    assert backoff.remaining_s(["a"], 10.5) == 0.5
    backoff.defer(ALL_ACCOUNTS, 200, 10.5)
    assert backoff.remaining_s(["b"], 10.6) == pytest.approx(0.1)
    assert backoff.deferred(11.5) == set()


def test_a_shortage_that_goes_on_is_one_shortage() -> None:
    """Asked again and told the same it is not new; after a while without, it is."""
    backoff = Backoff()
    assert backoff.defer("a", 20, 10.0)
    assert not backoff.defer("a", 20, 10.03)
    backoff.deferred(10.2)
    assert not backoff.defer("a", 20, 10.5)
    assert backoff.defer("b", 20, 10.5)
    assert backoff.defer("a", 20, 10.6 + SAME_SHORTAGE_S)
