"""An engine's claim to its GPU's weights: who is asked, for how long, and what it hears.

A kvstore listens at ``kvstore.sock`` only once it listens at ``weights.sock``, if it shares weights at all. So where
the first answers and the second does not, nothing is shared; where neither does, it is still to come.

Whatever comes instead of the weights is ``Unshared`` with a sentence: none of it is an error of this engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from quire_engine.checkpoint.shared.directory import Unshared, Unwanted
from quire_kv import KvstoreUnreachable, QuireError, WeightsConnection
from quire_proto.client.socket import KVSTORE_SOCKET
from quire_proto.messages.weights import ReadWeights, WaitWeights, YourWeights
from quire_proto.peer_socket import socket_state
from quire_proto.weights.packets import WEIGHTS_SOCKET

_POLL_S = 0.05
BEATS = 4  # in the time that a writer may be silent

log = structlog.get_logger()


def claim_weights(
    run_dir: Path, key: bytes, kvstore_s: float, writer_s: float
) -> tuple[WeightsConnection, ReadWeights | YourWeights]:
    """The weights of a key, or the right to write them, with the connection that holds them. Raises Unshared.

    Args:
        kvstore_s: how long to wait for a kvstore.
        writer_s: how long to wait for another process that writes them.
    """
    until = time.monotonic() + writer_s
    while True:
        connection = _connect(run_dir, kvstore_s)
        try:
            return connection, _granted(connection, key, until)
        except KvstoreUnreachable as silent:
            gone = connection.closed()
            connection.close()
            if not gone or time.monotonic() >= until:
                raise Unshared(f"nothing came of them within {writer_s:g} s: {silent}") from None
        except QuireError as refused:
            connection.close()
            raise Unshared(f"the kvstore refuses them: {refused}") from None
        except BaseException:
            connection.close()
            raise


@contextmanager
def beating(connection: WeightsConnection, lease_ms: int) -> Iterator[None]:
    """Within it the kvstore hears that this process still works on what it writes. Nothing else uses the connection."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(lease_ms / 1000 / BEATS):
            with suppress(QuireError):  # whoever asks for something next will hear of it
                connection.beat()

    thread = threading.Thread(target=beat, name="weights-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _granted(connection: WeightsConnection, key: bytes, until: float) -> ReadWeights | YourWeights:
    told = connection.claim(key)
    while isinstance(told, WaitWeights):
        log.info("weights_awaited", writer_pid=told.pid)
        told = connection.wait(max(_POLL_S, until - time.monotonic()))
    return told


def _connect(run_dir: Path, kvstore_s: float) -> WeightsConnection:
    until = time.monotonic() + kvstore_s
    while True:
        serves = socket_state(run_dir / KVSTORE_SOCKET) == "alive"
        try:
            return WeightsConnection(run_dir, 0)
        except KvstoreUnreachable:
            if serves:
                reason = f"the kvstore offers none: nothing listens at {run_dir / WEIGHTS_SOCKET}"
                raise Unwanted(f"{reason} (share_weights is false, or it is of an older version)") from None
            if time.monotonic() >= until:
                raise Unshared(f"no kvstore answered in {run_dir} within {kvstore_s:g} s") from None
        except QuireError as refused:  # another user listens there
            raise Unshared(str(refused)) from None
        time.sleep(_POLL_S)
