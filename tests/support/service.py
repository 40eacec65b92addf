"""A service without a socket, with ids that repeat, and requests in bytes."""

from __future__ import annotations

from typing import Any

from quire_kvstore.server.dispatch import Dispatch
from quire_kvstore.server.service import Service
from quire_kvstore.server.task import Task
from quire_proto.spans import Tracer
from quire_proto.wire.codec import to_map
from quire_proto.wire.envelope import Reply, Request, decode_reply
from quire_proto.wire.handles import ShmHandle
from quire_proto.wire.layout import Layout
from tests.support.store import Store

LAYOUT = Layout("tiny", "w0", "{}", "", "float32", 4, 1, 1, 8)
LEASE_MS = 5000


class BareService:
    """A dispatch and a peer that talks to it."""

    def __init__(self, blocks: int = 32, tracer: Tracer | None = None) -> None:
        count = iter(range(1, 1 << 30))
        self.store = Store(blocks, LAYOUT.block_size)
        self.store.state.publications.add("p", "public", list(range(10)))
        self.service = Service(
            self.store.state,
            LAYOUT,
            ShmHandle("/quire-test", LAYOUT.arena_bytes(blocks)),
            bytes(32),
            lease_ms=LEASE_MS,
            started_ms=0,
            ids=lambda: next(count).to_bytes(16, "big"),
        )
        self.dispatch = Dispatch(self.service, tracer)
        self.session = b""
        self._unfinished: dict[tuple[bytes, bytes], Task] = {}

    def turn(self, frame: bytes, peer: bytes = b"peer", now_ms: int = 0) -> bytes | None:
        """One turn of a request; the invariants hold after it. Its reply, or None: more turns are needed."""
        task = self._unfinished.pop((peer, frame), None) or Task(peer, [frame], 0)
        answer = self.dispatch.handle(task, now_ms)
        self.store.check_invariants()
        if task.slices is not None:
            assert answer is None, "a reply ends a task"
            self._unfinished[peer, frame] = task
        return answer

    def frame(self, op: str, number: int, body: Any = None, deadline_ms: int = 0, **other: Any) -> bytes:
        """A request in bytes; ``body`` is a message or a map."""
        fields = {} if body is None else body if isinstance(body, dict) else to_map(body)
        values = {"boot": self.service.boot, "session": self.session, **other}
        return Request(values["boot"], values["session"], number, op, deadline_ms, fields).encode()

    def send(self, frame: bytes, received_ms: int = 0, now_ms: int = 0) -> Reply:
        """The reply, decoded."""
        reply = self.dispatch.handle(Task(b"peer", [frame], received_ms), now_ms)
        assert reply is not None, "deferred"
        return decode_reply(reply)

    def ask(self, op: str, number: int, body: Any = None, **other: Any) -> Reply:
        """Frame and send."""
        return self.send(self.frame(op, number, body, **other))

    def open(self, nonce: bytes = bytes(16), pid: int = 1) -> bytes:
        """Attach with a token, send ready as number 1; returns the session id."""
        peer = self.service.admit(pid)
        reply = self.ask("attach", 0, {"nonce": nonce, "token": peer.token, "name": f"engine-{pid}"}, session=b"")
        assert reply.code == "", reply.body
        self.session = reply.body["session"]
        assert self.ask("ready", 1).code == ""
        return self.session
