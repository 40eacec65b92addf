"""One client of a scenario: its process, its session, and the messages it sends, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from quire_proto import messages as m
from quire_proto import op_table
from quire_proto.wire.codec import from_map, to_map
from quire_proto.wire.envelope import Reply, Request, decode_reply
from tests.scenarios.engine import Engine
from tests.scenarios.kvstore import ClientProcess, Kvstore
from tests.scenarios.reply_text import reply_text

OPS = {op.name: op for op in vars(op_table).values() if isinstance(op, op_table.Op)}


class Client:
    """Sends requests and keeps what a resend needs.

    Attributes:
        engine: what it knows of its sequences.
        process: the process it is; ``side``: its end of the side socket.
        session: the session's id, or none.
        publications: generation of the list it was last told of.
    """

    def __init__(self, name: str, kvstore: Kvstore, engine: Engine, process: ClientProcess) -> None:
        self.name, self.engine, self.process, self._kvstore = name, engine, process, kvstore
        self.session, self.publications = b"", 0
        self._boot, self._number = kvstore.service.boot, 0
        self._sent: dict[int, tuple[bytes, bytes]] = {}
        self._keys: dict[str, bytes] = {}

    def attach(self, name: str, unordered: Iterator[int]) -> str:
        """Connect, attach, map nothing, be ready; why it was refused, or nothing."""
        hellos: list[bytes] = []
        self.side = self._kvstore.connect(self.process, hellos.append)
        body = m.Attach(self.process.pid.to_bytes(16, "big"), msgpack.unpackb(hellos[0])["token"], name)
        reply = self.request("attach", body, next(unordered))
        if reply is None or reply.code:
            return refusal(reply)
        attached = from_map(m.Attached, reply.body)
        self.session, self.publications = attached.session, attached.publications_generation
        ready = self.request("ready", m.Empty())
        assert ready is not None, "ready is answered at once"
        return refusal(ready) if ready.code else ""

    def request(self, op: str, body: Any, number: int = 0, deadline_ms: int = 0) -> Reply | None:
        """One request and its reply, or None if that comes later. Without a number: the session's next."""
        if not number:
            self._number += 1
        used = number or self._number
        frame = Request(self._boot, self.session, used, op, deadline_ms, to_map(body)).encode()
        reply = self._kvstore.handle(self.name.encode(), frame)
        if reply is None:
            return None
        if OPS[op].ordered:
            self._sent.setdefault(used, (frame, reply))
        return decode_reply(reply)

    def key(self, tenant: str, number: int) -> bytes:
        """A tenant's digest key, asked for once; zeros if it is refused: the name is no tenant's."""
        if tenant not in self._keys:
            reply = self.request("domain", m.Domain(tenant), number)
            self._keys[tenant] = bytes(32) if reply is None or reply.code else reply.body["key"]
        return self._keys[tenant]

    def resend(self, back: int) -> str:
        """Send the last ordered request but ``back`` once more, to the byte."""
        frame, before = self._sent[self._number - back]
        reply = self._kvstore.handle(self.name.encode(), frame)
        return "the same reply" if reply == before else refusal(decode_reply(reply or b""))


def answer(op: str, reply: Reply | None, told: Callable[[Any], str] = reply_text) -> str:
    """A reply as text."""
    if reply is None:
        return "(deferred)"
    return refusal(reply) if reply.code else told(from_map(OPS[op].reply, reply.body))


def refusal(reply: Reply | None) -> str:
    """Code and details of an error; its message is for people, and not a promise."""
    assert reply is not None, "an error comes at once"
    details = [f"{name}={value}" for name, value in reply.body.get("detail", {}).items()]
    return " ".join(["refused", reply.code, *details])
