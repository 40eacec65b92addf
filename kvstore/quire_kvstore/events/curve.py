"""Curve: the key of an event stream that is encrypted, and the readers that have been given one.

Both are certificates as pyzmq's ``zmq.auth`` writes them: ``server.key_secret`` is the stream's own, and each file of
``readers/`` that ends in ``.key`` is the public half of one reader's. Who has none of these is refused in the
handshake. Readers are read once: one that is added or taken away counts from the next start on.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from .errors import EventsError

SERVER, READERS = "server.key_secret", "readers"


@dataclass(frozen=True, slots=True)
class Curve:
    """A key pair in Z85, and the directory of the readers' certificates."""

    public: bytes
    secret: bytes
    readers: Path

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Ask a key of whoever connects to a socket that is not bound yet."""
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret
        socket.curve_server = True


def read_curve(folder: Path) -> Curve:
    """The keys in a directory. Raises EventsError."""
    file, readers = folder / SERVER, folder / READERS
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise EventsError(f"{file}: must be readable by its owner only (chmod 600)")
        public, secret = zmq.auth.load_certificate(file)
        found = zmq.auth.load_certificates(readers)
    except (OSError, ValueError) as error:
        raise EventsError(f"kvstore.events_curve: {error}") from None
    if secret is None:
        raise EventsError(f"{file}: has no secret key")
    if not found:
        raise EventsError(f"{readers}: holds no certificate (*.key): nobody could read")
    return Curve(public, secret, readers)


@contextmanager
def authenticated(context: zmq.Context[zmq.Socket[bytes]], curve: Curve | None) -> Iterator[None]:
    """Sockets of the context that ask for a key take those of the readers only."""
    if curve is None:
        yield
        return
    checks = ThreadAuthenticator(context)
    checks.start()
    try:
        checks.configure_curve(domain="*", location=curve.readers)
        yield
    finally:
        checks.stop()
