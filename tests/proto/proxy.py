"""A proxy between client and kvstore that loses frames, doubles them, or says BUSY."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import zmq

from quire_proto.wire.envelope import Reply, decode_reply, decode_request
from tests.support.kvstore import Kvstore


class Proxy:
    """Stands between DEALER and ROUTER and loses, or doubles, frames by op.

    Attributes:
        lose_requests, lose_replies: ops, each entry used once; ``"heartbeat*"`` loses all of an op.
        double_replies: ops whose replies arrive twice.
        busy: ops answered BUSY in the kvstore's place, each entry used once.
        seen: (op, frame) of each request that arrived.
    """

    def __init__(self, kvstore: Kvstore, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        (directory / "attach.sock").symlink_to(kvstore.run_dir / "attach.sock")
        self.run_dir = directory
        self.lose_requests: list[str] = []
        self.lose_replies: list[str] = []
        self.double_replies: list[str] = []
        self.busy: list[str] = []
        self.seen: list[tuple[str, bytes]] = []
        self._to = f"ipc://{kvstore.run_dir}/kvstore.sock"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wake = os.eventfd(0)
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Stop forwarding."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        front = self._context.socket(zmq.ROUTER)
        front.bind(f"ipc://{self.run_dir}/kvstore.sock")
        backs: dict[bytes, zmq.Socket[bytes]] = {}
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        ops: dict[tuple[bytes, int], str] = {}
        while not self._stopping:
            ready = dict(poller.poll())
            if front in ready:
                identity, frame = front.recv_multipart()
                request = decode_request(frame)
                ops[identity, request.number] = request.op
                self.seen.append((request.op, frame))
                if identity not in backs:
                    backs[identity] = self._context.socket(zmq.DEALER)
                    backs[identity].connect(self._to)
                    poller.register(backs[identity], zmq.POLLIN)
                if _loses(self.busy, request.op):
                    body = {"message": "", "detail": {"retry_after_ms": 50}}
                    front.send_multipart((identity, Reply(request.boot, request.number, "BUSY", body).encode()))
                elif not _loses(self.lose_requests, request.op):
                    backs[identity].send(frame)
            for identity, back in backs.items():
                if back in ready:
                    frame = back.recv()
                    op = ops[identity, decode_reply(frame).number]
                    if not _loses(self.lose_replies, op):
                        front.send_multipart((identity, frame))
                        if op in self.double_replies:
                            front.send_multipart((identity, frame))
        self._context.destroy(linger=0)
        (self.run_dir / "kvstore.sock").unlink(missing_ok=True)  # libzmq leaves it there


def _loses(rules: list[str], op: str) -> bool:
    if op in rules:
        rules.remove(op)
        return True
    return f"{op}*" in rules
