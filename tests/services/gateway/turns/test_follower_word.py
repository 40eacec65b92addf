"""What a follower of declarations is told back: claims that the cluster can meet, while somebody waits for them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from quire_services.gateway.turns import follower_word
from quire_services.gateway.turns.follower_word import FollowerWord


def test_a_claim_is_what_one_node_can_have_and_lapses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tenant without a limit in the cluster has one, nor a request beyond it; the largest that was refused counts,
    until its client would have come again."""
    clock = [100.0]
    monkeypatch.setattr(follower_word, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    word = FollowerWord(shares={"ann": 40}, most={"ann": 70}, beat_s=2.0)
    assert (word.claim("bob", 1), word.claim("ann", 31), word.needs()) == (0, 0, {})
    again_s = word.claim("ann", 30)
    assert again_s == 8
    assert word.claim("ann", 10) == again_s
    assert word.needs() == {"ann": 70}
    clock[0] += again_s + 1
    assert word.needs() == {"ann": 70}
    clock[0] += 2 * again_s
    assert word.needs() == {}
