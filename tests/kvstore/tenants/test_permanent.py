"""More than the pool: the wire refuses it before; what stands beside requests is in tests/scenarios/quotas."""

from __future__ import annotations

from quire_proto import messages as m
from tests.support.driver import Driver

BLOCKS, SIZE = 16, 4


def test_more_than_the_pool_is_told_never() -> None:
    """And what would fit an empty pool is told to come back."""
    driver = Driver(BLOCKS, SIZE)
    session = driver.attach()
    assert driver.allocate(session, 1, list(range(8 * SIZE)), tenant="t").code == m.OK
    for blocks, again in ((BLOCKS, True), (BLOCKS + 1, False)):
        reply = driver.allocate(session, 2, list(range(500, 500 + blocks * SIZE)), tenant="t")
        assert reply.code == m.NO_SPACE
        assert (reply.retry_after_ms > 0) is again
