"""A client that queues ten thousand requests and is stopped before it reads one reply.

python -m tests.chaos.flood RUN_DIR
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import zmq

from quire_proto.messages import Lookup
from quire_proto.wire.codec import to_map
from quire_proto.wire.envelope import Request

REQUESTS = 10_000


def main(run_dir: str) -> None:
    """Send, say so, and stop: the process, its sockets' thread included, stands still."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
        dealer.setsockopt(option, 0)
    dealer.connect(f"ipc://{Path(run_dir) / 'kvstore.sock'}")
    body = to_map(Lookup("p"))
    for number in range(REQUESTS):
        dealer.send(Request(b"", b"", (1 << 62) + number, "lookup", 0, body).encode())
    print("queued", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    main(sys.argv[1])
