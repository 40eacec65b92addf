"""Weights of a kvstore whose pool is on a GPU: their server, as it is configured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import structlog

from quire_kvstore.host.arena_choice import IPC
from quire_kvstore.host.device_mappers import WEIGHTS_MAPPERS_FILE, Mappers
from quire_kvstore.weights.weights_server import WeightsServer
from quire_proto.memory.cuda_device import Device
from quire_services.config.settings import KvstoreSettings

log = structlog.get_logger()


def settle_weights(run_dir: Path, grace_ms: int) -> None:
    """Before memory is made: wait until all have ended that map an earlier life's weights by IPC. Raises ArenaError."""
    with closing(Mappers(run_dir, WEIGHTS_MAPPERS_FILE)) as before:
        before.settle(None, grace_ms)


@contextmanager
def weights_server(
    pool: KvstoreSettings, run_dir: Path, kind: str, device: Device | None
) -> Iterator[WeightsServer | None]:
    """The server, or None for a pool in host memory or where weights are not shared."""
    if device is None or not pool.share_weights:
        yield None
        return
    if kind == IPC:
        log.warning(
            "weights_writable",
            arena=kind,
            meaning="memory behind an IPC handle cannot be mapped read-only: what one engine writes by mistake into the"
            " weights, all compute with; when this kvstore ends, every engine that maps them ends, too",
        )
    roster = closing(Mappers(run_dir, WEIGHTS_MAPPERS_FILE)) if kind == IPC else nullcontext(None)
    with (
        roster as mappers,
        closing(WeightsServer(run_dir, kind, device, int(pool.weights_keep_s * 1000), mappers)) as server,
    ):
        yield server
