"""A collector that takes spans and keeps none, in a process of its own: so that what a stack spends on telling is seen,
and not what somebody spends on listening.

As a program: prints its port, then answers until it is stopped.
"""

from __future__ import annotations

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class SpanSink:
    """One on a free port; leaving the context stops it. ``url``: where spans are sent."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", __file__]  # from anywhere: it needs nothing of ours
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1/traces"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()


class _Taken(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a batch."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Taken)
    print(server.server_port, flush=True)
    server.serve_forever()
