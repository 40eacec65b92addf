"""Weights: what a tenant counts beside others, as the kvstore has it (``quire tenant set --weight``).

Read again every ``WEIGHTS_POLL_S``, on a thread of its own. While no kvstore answers, the last ones stay; before any
did, every tenant has the default.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from quire_engine.fairness.shares import WEIGHT
from quire_kv import QuireError
from quire_services.process.kvstore_call import kvstore_reader

WEIGHTS_POLL_S = 1.0
WEIGHTS_TIMEOUT_S = 1.0


class Weights:
    """Weights by tenant."""

    def __init__(self) -> None:
        self._weights: dict[str, int] = {}

    def of(self, tenant: str) -> int:
        """A tenant's weight."""
        return self._weights.get(tenant, WEIGHT)

    async def watch(self, run_dir: Path) -> None:
        """Follow the kvstore of a run directory, until cancelled."""
        while True:
            self._weights = await asyncio.to_thread(_read, run_dir, self._weights)
            await asyncio.sleep(WEIGHTS_POLL_S)


def _read(run_dir: Path, last: dict[str, int]) -> dict[str, int]:
    try:
        with kvstore_reader(run_dir, WEIGHTS_TIMEOUT_S) as reader:
            rows = reader.tenants().tenants
    except (QuireError, OSError):
        return last
    return {row.tenant: row.weight for row in rows if row.weight > 0}
