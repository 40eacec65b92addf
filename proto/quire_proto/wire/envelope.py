"""Envelope: the outer array of every request and reply.

    request = [version, boot id, session, number, op, deadline ms, body]
    reply   = [version, boot id, number, code, body]

Each is one ZeroMQ frame. ``boot id`` and ``session`` are 16 bytes, or empty where the sender has none yet.
``code`` is "" for success, else an error code and the body is {"message": …, "detail": {…}}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .codec import MAX_INT, CodecError, decode, encode

VERSION = 2
ID_BYTES = 16
MAX_FRAME_BYTES = 16 * 1024 * 1024
MAX_DEADLINE_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it travels; ``body`` is still a plain map."""

    boot: bytes
    session: bytes
    number: int
    op: str
    deadline_ms: int
    body: dict[str, Any]

    def encode(self) -> bytes:
        """The request as one frame."""
        return encode([VERSION, self.boot, self.session, self.number, self.op, self.deadline_ms, self.body])


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as it travels; ``code`` is "" for success."""

    boot: bytes
    number: int
    code: str
    body: dict[str, Any]

    def encode(self) -> bytes:
        """The reply as one frame."""
        return encode([VERSION, self.boot, self.number, self.code, self.body])


def decode_request(frame: bytes, max_bytes: int = MAX_FRAME_BYTES) -> Request:
    """A frame as a request; raises CodecError. The body's fields are checked later, by the op's own type."""
    parts = _array(frame, max_bytes, 7)
    version, boot, session, number, op, deadline_ms, body = parts
    _version(version)
    for name, value in (("boot id", boot), ("session", session)):
        if not isinstance(value, bytes) or len(value) not in (0, ID_BYTES):
            raise CodecError("BAD_FRAME", f"{name}: expected {ID_BYTES} bytes or none")
    if not _count(number, MAX_INT) or not _count(deadline_ms, MAX_DEADLINE_MS):
        raise CodecError("BAD_FRAME", f"number and deadline are integers; the deadline at most {MAX_DEADLINE_MS} ms")
    if not isinstance(op, str) or not isinstance(body, dict):
        raise CodecError("BAD_FRAME", "op is a string and the body a map")
    return Request(boot, session, number, op, deadline_ms, body)


def decode_reply(frame: bytes, max_bytes: int = MAX_FRAME_BYTES) -> Reply:
    """A frame as a reply; raises CodecError."""
    version, boot, number, code, body = _array(frame, max_bytes, 5)
    _version(version)
    if not isinstance(boot, bytes) or not _count(number, MAX_INT):
        raise CodecError("BAD_FRAME", "boot id or number is malformed")
    if not isinstance(code, str) or not isinstance(body, dict):
        raise CodecError("BAD_FRAME", "code is a string and the body a map")
    return Reply(boot, number, code, body)


def _array(frame: bytes, max_bytes: int, length: int) -> list[Any]:
    parts = decode(frame, max_bytes)
    if not isinstance(parts, list) or not parts:
        raise CodecError("BAD_FRAME", "the envelope is an array")
    _version(parts[0])
    if len(parts) != length:
        raise CodecError("BAD_FRAME", f"the envelope has {length} elements, got {len(parts)}")
    return parts


def _version(version: Any) -> None:
    if type(version) is not int:
        raise CodecError("BAD_FRAME", "the version is an integer")
    if version != VERSION:
        raise CodecError("BAD_VERSION", f"protocol version {version}; this side speaks {VERSION}")


def _count(value: Any, top: int) -> bool:
    return type(value) is int and 0 <= value <= top
