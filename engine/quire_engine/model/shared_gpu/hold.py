"""An engine's hold on its GPU's weights, from the mapping to the end of the process.

As long as the connection is open the kvstore keeps the arena. It ends when the kvstore does, and then

    behind a descriptor   the memory outlives the kvstore: go on computing, and bring it to the next one
    behind an IPC handle  the mapping is undefined: the engine gives back what it works on, and its process ends

A thread watches for that, so that it is seen while the engine computes, waits or attaches. It makes no driver call.
Ending is the engine's, which does not attach again (``insist``); one that has not come to that in a moment is ended.
What the next kvstore will not have, because others wrote these weights anew meanwhile, stays this engine's alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from quire_engine.kv.attach import ContextPoisoned
from quire_kv import KvstoreUnreachable, QuireError, WeightsConnection, WeightsMapping
from quire_proto.messages.weights import WeightTensor
from quire_proto.wire.handles import CudaVmmFdHandle, Handle

WATCH_MS = 1000  # how late an end of ours is seen; an end of the kvstore's is seen at once
RETRY_S = 0.1
END_S = 1.0  # for what an engine does when its kvstore is lost: wait for the GPU, tell the gateway
LOST = "the kvstore that owned the weights is gone, and what this engine maps of them by IPC with it"

log = structlog.get_logger()


class WeightsHold:
    """The weights of one key, mapped by this process until ``close`` or its end.

    Args:
        arena: id, as the kvstore gave it.
        end: ends this process; called with the reason, on the thread that watches.
    """

    def __init__(
        self,
        run_dir: Path,
        key: bytes,
        arena: bytes,
        handle: Handle,
        manifest: tuple[WeightTensor, ...],
        connection: WeightsConnection,
        mapping: WeightsMapping,
        end: Callable[[str], None],
    ) -> None:
        self._run_dir, self._key, self._arena, self._size, self._manifest = run_dir, key, arena, handle.size, manifest
        self._connection, self._mapping, self._end = connection, mapping, end
        self._fd = os.dup(connection.fd) if isinstance(handle, CudaVmmFdHandle) else -1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="weights", daemon=True)
        self._thread.start()

    def insist(self) -> None:
        """Raise ContextPoisoned if nothing may be computed with them any more."""
        if self._fd < 0 and self._connection.closed():
            raise ContextPoisoned(LOST)

    def close(self) -> None:
        """Unmap, and say so; the caller launches nothing more. A process that ends need not."""
        self._closing.set()
        self._thread.join()
        self._mapping.close()
        self._connection.release()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _watch(self) -> None:
        while not self._closing.is_set():
            if not self._connection.closed(WATCH_MS):
                continue
            if self._fd < 0:
                if not self._closing.wait(END_S):
                    self._end(LOST)
                return
            if not self._brought():
                return

    def _brought(self) -> bool:
        """Give them to the next kvstore; whether it has them."""
        while not self._closing.wait(RETRY_S):
            try:
                connection = WeightsConnection(self._run_dir, 0)
            except KvstoreUnreachable:
                continue
            except QuireError as refused:
                return self._alone(refused)
            try:
                connection.bring(self._key, self._arena, self._size, self._manifest, self._fd)
            except KvstoreUnreachable:
                connection.close()
            except QuireError as refused:
                connection.close()
                return self._alone(refused)
            else:
                self._connection.close()
                self._connection = connection
                log.info("weights_brought", bytes=self._size)
                return True
        return False

    def _alone(self, refused: QuireError) -> bool:
        log.warning("weights_not_brought", reason=str(refused), meaning="this engine goes on with them, others do not")
        return False
