"""Priorities order the requests of one tenant, and nothing between tenants."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engine_loop import engine_on, kvstore, words
from tests.support.waits import wait_for

pytestmark = pytest.mark.process


def test_a_lower_number_is_served_first_within_a_tenant(tmp_path: Path) -> None:
    """Those that wait go by priority and then by arrival. However low the numbers of one tenant are, the other's turn
    comes as it would."""
    with kvstore(tmp_path, blocks=400) as (run_dir, model_dir), engine_on(run_dir, model_dir, slots=1) as (_, front):
        front.ask("first", words(300), max_tokens=300)
        wait_for(lambda: front.tokens.get(("first", 0)), "the first runs")
        asked = (("late", "tenant", 9), ("plain", "tenant", 5), ("urgent", "tenant", 0), ("again", "tenant", 5))
        for place, (name, tenant, priority) in enumerate((*asked, ("other", "other", 2**31 - 1))):
            front.ask(name, words(300, 5 + place), tenant=tenant, priority=priority)
        for name, _, _ in asked:
            front.end(name)
        order = [name for name, _ in front.tokens]
    assert [name for name in order if name != "other"] == ["first", "urgent", "plain", "again", "late"]
    assert order.index("other") < order.index("urgent"), "its tenant has had nothing yet"
