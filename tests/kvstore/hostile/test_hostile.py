"""Random clients that keep no rule: they harm no other, and each fault that they could reach is found if it is put
back."""

from __future__ import annotations

import pytest

from tests.kvstore.hostile.crowd import run
from tests.proofs.planted import Patch
from tests.proofs.planted_hostile import HOSTILE_BUGS

TURNS = 400
# Seeds before which the search may be spared: others find the bug in less than a minute from the first on.
FOUND_BY = {
    "declaration_dropped_with_its_session": 35,
    "evicted_block_takes_its_publications_name": 60,
    "hit_beyond_anothers_limit": 212,
    "priority_that_no_row_can_hold": 35,
    "scrub_forgotten_with_a_fork": 347,
}


def test_clients_without_rules_harm_themselves_only() -> None:
    """A few seeds: invariants after each message, nothing INTERNAL, an innocent that is served, nothing left behind."""
    finished, codes = run(1, 6, TURNS)
    assert finished > 20
    assert {"", "STALE_SESSION", "OUT_OF_ORDER", "NUMBER_REUSED", "NOT_FOUND", "BAD_FIELD", "CONFLICT"} <= set(codes)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", [pytest.param(30, marks=pytest.mark.slow), pytest.param(150, marks=pytest.mark.soak)])
def test_many_crowds_harm_themselves_only(seeds: int) -> None:
    """The same for many seeds."""
    assert run(1000, seeds, 600)[0] > 6 * seeds


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", HOSTILE_BUGS, ids=lambda bug: bug.__name__)
def test_the_crowd_finds_a_planted_bug(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that hold for the real store fail for the broken one, and say how to repeat it."""
    bug(monkeypatch)
    with pytest.raises(AssertionError, match="seed ") as found:
        run(FOUND_BY.get(bug.__name__, 1), 900, TURNS)
    print(f"{bug.__name__}: {str(found.value).splitlines()[0][:160]}")
