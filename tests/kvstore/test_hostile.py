"""Clients that break every rule of the protocol, beside one that keeps them all (``hostile``)."""

from __future__ import annotations

import pytest

from tests.kvstore import hostile


@pytest.mark.parametrize("first", [1, 101])
def test_hostile_clients_harm_nobody_else(first: int) -> None:
    """Whatever they send: no invariant breaks, nothing is INTERNAL, and the innocent client computes its prompts."""
    finished, codes = hostile.run(first, 4, 300)

    assert finished > 0
    assert codes["CONFLICT"] > 0
    assert "INTERNAL" not in codes
