"""Real kvstore processes, and a proxy that loses frames, for the tests of the client library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import zmq

from quire_proto.client.client import KVReader
from quire_proto.wire.codec import to_map
from quire_proto.wire.envelope import Reply, decode_reply, decode_request
from quire_proto.wire.errors import KvstoreUnreachable
from quire_proto.wire.layout import Layout
from tests.support.waits import DEADLINE_S, wait_for

LAYOUT = Layout("tiny", "ab12", "{}", "", "float32", 4, 2, 2, 8)
PUBLISHED = [{"id": "system", "domain": "public", "tokens": list(range(100, 110))}]


class Kvstore:
    """A kvstore process in a run directory of its own."""

    def __init__(self, directory: Path, lease_ms: int) -> None:
        self.run_dir = directory / "run"
        self._lease_ms = lease_ms
        self._prepared = directory / "prepared.json"
        self._prepared.write_text(json.dumps({"layout": to_map(LAYOUT), "published": PUBLISHED}))
        self._log = directory / "log"
        self.start()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        command = [
            sys.executable,
            "-m",
            "quire_services.daemons.kvstored",
            "--run-dir",
            str(self.run_dir),
            "--blocks",
            "32",
        ]
        command += ["--prepared", str(self._prepared), "--lease-ms", str(self._lease_ms), "--debug"]
        command += ["--fence-grace-ms", "600000"]  # the process under test is this one: it must not be killed
        with self._log.open("a") as log:
            self.process = subprocess.Popen(command, stderr=log)
        wait_for(self._answers, "kvstore answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            with KVReader(self.run_dir, timeout=0.2) as reader:
                return bool(reader.stats().num_blocks)
        except KvstoreUnreachable:
            return False

    def logged(self, event: str) -> list[float]:
        """When the kvstore logged an event (s since the epoch)."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines if line["event"] == event]

    def stats(self) -> Any:
        """The kvstore's own counters."""
        with KVReader(self.run_dir) as reader:
            return reader.stats()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it cleanly; a kvstore that found a broken invariant would not exit with 0."""
        if self.process.poll() == -signal.SIGKILL:
            self.start()  # the next start removes what a killed one left behind
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(DEADLINE_S) == 0, self._log.read_text()


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
