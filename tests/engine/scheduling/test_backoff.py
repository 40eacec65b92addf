"""Quiet times by account, and when a shortage is a new one."""

from __future__ import annotations

import pytest

from quire_engine.scheduling.backoff import EVERYBODY, SAME_SHORTAGE_S, Quiet


def test_one_account_s_quiet_time_is_not_another_s() -> None:
    """Everybody's is everybody's; times that are over are forgotten."""
    quiet = Quiet()
    quiet.hush("a", 1000, 10.0)
    assert quiet.wait(["a", "b"], 10.5) == 0.0
    assert quiet.wait(["a"], 10.5) == 0.5
    quiet.hush(EVERYBODY, 200, 10.5)
    assert quiet.wait(["b"], 10.6) == pytest.approx(0.1)
    assert quiet.accounts(11.5) == set()


def test_a_shortage_that_goes_on_is_one_shortage() -> None:
    """Asked again and told the same it is not new; after a while without, it is."""
    quiet = Quiet()
    assert quiet.hush("a", 20, 10.0)
    assert not quiet.hush("a", 20, 10.03)
    quiet.accounts(10.2)
    assert not quiet.hush("a", 20, 10.5)
    assert quiet.hush("b", 20, 10.5)
    assert quiet.hush("a", 20, 10.6 + SAME_SHORTAGE_S)
