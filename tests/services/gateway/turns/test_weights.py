"""Weights of tenants follow a running kvstore, and stay when it is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from quire_proto.client.client import KVReader
from quire_services.gateway.turns.weights import Weights
from tests.support.engine_loop import kvstore
from tests.support.waits import DEADLINE_S


async def follow(weights: Weights, run_dir: Path, wanted: int) -> None:
    """Watch until the tenant has this weight."""
    watch = asyncio.ensure_future(weights.watch(run_dir))
    try:
        async with asyncio.timeout(DEADLINE_S):
            while weights.of("ann") != wanted:
                await asyncio.sleep(0.02)
    finally:
        watch.cancel()


def test_what_an_operator_declares_is_followed(tmp_path: Path) -> None:
    """Before any kvstore all count the same; then as declared; and the last that was heard stays."""
    weights = Weights()
    asyncio.run(follow(weights, tmp_path / "nowhere", 100))
    with kvstore(tmp_path) as (run_dir, _):
        with KVReader(run_dir) as reader:
            reader.quota(tenant="ann", weight=300)
        asyncio.run(follow(weights, run_dir, 300))
        assert weights.of("bob") == 100
    asyncio.run(follow(weights, run_dir, 300))
