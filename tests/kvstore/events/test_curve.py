"""An event stream with keys: whose certificate lies among the readers', and nobody else, hears and replays it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
import zmq.auth

from quire_kvstore.events.catalogue import Form
from quire_kvstore.events.curve import read_curve
from quire_kvstore.events.errors import EventsError
from quire_kvstore.events.publisher import Endpoints, Publisher
from quire_kvstore.sharing.change_log import Journal, Stored
from tests.support.ports import free_port
from tests.support.waits import DEADLINE_S, wait_for

REFUSED_MS = 300  # a reader with a key has its answer in a few


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory of keys with one reader, ``router``; the secret of a ``stranger`` lies beside it."""
    folder = tmp_path / "keys"
    (folder / "readers").mkdir(parents=True)
    zmq.auth.create_certificates(folder, "server")
    (folder / "server.key_secret").chmod(0o600)
    for name in ("router", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)
    (tmp_path / "router.key").rename(folder / "readers" / "router.key")
    return folder


@pytest.fixture
def stream(keys: Path) -> Iterator[tuple[Publisher, Endpoints]]:
    """A publisher with keys."""
    port = free_port()
    where = Endpoints(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{free_port()}")
    publisher = Publisher(where, "", Form(4, "", "none", "bytes", bytes(32)), curve=read_curve(keys))
    yield publisher, where
    publisher.close()


def socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, keys: Path, reader: str) -> zmq.Socket[bytes]:
    """A socket that knows the server's key and has the reader's own; without any if there is no reader."""
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    if reader:
        made.curve_serverkey, _ = zmq.auth.load_certificate(keys / "server.key")
        made.curve_publickey, made.curve_secretkey = zmq.auth.load_certificate(keys.parent / f"{reader}.key_secret")
    return made


def replayed(where: Endpoints, keys: Path, reader: str, wait_ms: int) -> bool:
    """Whether a request for a replay is answered."""
    with zmq.Context() as context, socket(context, zmq.DEALER, keys, reader) as dealer:
        dealer.connect(where.replay)
        dealer.send_multipart([b"", bytes(8)])
        return bool(dealer.poll(wait_ms))


def test_a_reader_with_a_key_hears_and_replays(stream: tuple[Publisher, Endpoints], keys: Path) -> None:
    """Live batches, and what was before."""
    publisher, where = stream
    journal = Journal()
    assert replayed(where, keys, "router", int(DEADLINE_S * 1000))
    with zmq.Context() as context, socket(context, zmq.SUB, keys, "router") as live:
        live.subscribe("")
        live.connect(where.live)

        def store() -> None:
            journal.stored([Stored(bytes(32), bytes(32), None, "acme", b"")])
            publisher.collect(journal)

        wait_for(lambda: live.poll(10), "a live batch", meanwhile=store)


@pytest.mark.parametrize("reader", ["stranger", ""])
def test_nobody_else_is_answered(stream: tuple[Publisher, Endpoints], keys: Path, reader: str) -> None:
    """Neither with a key that was not entered nor without one; readers go on."""
    _, where = stream

    assert not replayed(where, keys, reader, REFUSED_MS)
    assert replayed(where, keys, "router", int(DEADLINE_S * 1000))


def test_keys_that_cannot_be_used_are_named(keys: Path) -> None:
    """A secret that others can read, a directory without readers, a file that is none."""
    secret, readers = keys / "server.key_secret", keys / "readers"
    secret.chmod(0o644)
    with pytest.raises(EventsError, match="chmod 600"):
        read_curve(keys)
    secret.chmod(0o600)
    (readers / "router.key").unlink()
    with pytest.raises(EventsError, match="nobody could read"):
        read_curve(keys)
    secret.write_text("nonsense")
    with pytest.raises(EventsError, match="events_curve"):
        read_curve(keys)
    secret.unlink()
    with pytest.raises(EventsError, match="events_curve"):
        read_curve(keys)
