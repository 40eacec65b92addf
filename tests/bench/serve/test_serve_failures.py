"""The serve bench beside a server that breaks: what it measured is kept, what failed is named, and it goes on."""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.report import figures
from bench.serve import serve

Answer = Callable[[dict[str, Any]], bytes]
CUT = json.dumps({"choices": [{"index": 0, "delta": {"content": "w1"}}]})
USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
WHOLE = f"data: {CUT}\n\ndata: {CUT}\n\ndata: {USAGE}\n\ndata: [DONE]\n\n".encode()


class Handler(BaseHTTPRequestHandler):
    """Answers every chat as the server's ``answer`` says; nothing means a failure of the engine."""

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        """The model list."""
        self._reply(200, b'{"data": [{"id": "m"}]}')

    def do_POST(self) -> None:
        """A chat."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: Answer = self.server.answer  # type: ignore[attr-defined]
        said = answer(body)
        self._reply(200 if said else 500, said or b"EngineDeadError")

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have given up
            self.wfile.write(body)


@pytest.fixture
def peer() -> Iterator[ThreadingHTTPServer]:
    """A server on a port of its own; set its ``answer``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(peer: ThreadingHTTPServer, answer: Answer, *options: str) -> dict[str, Any]:
    """The figures of a run against that server alone."""
    peer.answer = answer  # type: ignore[attr-defined]
    parser = argparse.ArgumentParser()
    parser.add_argument("--save")
    serve.add_arguments(parser)
    url = f"http://127.0.0.1:{peer.server_address[1]}"
    fixed = ["--peer", url, "--skip-ours", "--model=tiny", "--scale=0.05"]
    return serve.run(parser.parse_args([*fixed, *options])).as_json()


def test_failure_costs_its_own_cell(peer: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that fails once with one workload has its other pairs and workloads measured, and all of it is saved."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    refusals = iter([b""])

    def answer(body: dict[str, Any]) -> bytes:
        return next(refusals, WHOLE) if body["temperature"] else WHOLE  # only `branch` is sampled

    found = run(peer, answer, "--workload=branch,private", "--pairs=2", "--save=run")
    branch, private = found["figures"]["branch"], found["figures"]["private"]

    assert [(failure["side"], failure["pair"]) for failure in branch["failures"]] == [("peer open", 0)]
    assert "EngineDeadError" in branch["failures"][0]["reason"]
    assert list(branch["samples"]["peer open cold"]) == [1]
    assert list(branch["samples"]["peer isolated cold"]) == [0, 1]
    assert private["failures"] == []
    assert any("branch, pair 1: peer open failed" in note for note in found["notes"])
    assert json.loads((tmp_path / "run.json").read_text())["figures"]["private"]["sides"]


def test_pairs_are_saved_as_they_come(
    peer: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is cut short in its second pair leaves the first one on disk."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    begun: list[int] = []
    measure = serve.measure

    def interrupted(pair: int, *rest: Any) -> None:
        begun.append(pair)
        if len(begun) == 2:
            raise KeyboardInterrupt
        measure(pair, *rest)

    monkeypatch.setattr(serve, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(peer, lambda _: WHOLE, "--workload=private", "--pairs=2", "--save=run")
    saved = json.loads((tmp_path / "run.json").read_text())["figures"]["private"]

    assert saved["pairs"] == 1
    assert saved["sides"]["peer open cold"]["output_tokens"] > 0


def test_cut_off_answer_is_a_failure(peer: ThreadingHTTPServer) -> None:
    """A stream that ends before its end is no measurement."""
    found = run(peer, lambda _: f"data: {CUT}\n\n".encode(), "--workload=private", "--pairs=1")

    reasons = [failure["reason"] for failure in found["figures"]["private"]["failures"]]
    assert len(reasons) == 2
    assert all("ended before its end" in reason for reason in reasons)


def test_slow_side_is_left_out_with_a_bound(peer: ThreadingHTTPServer) -> None:
    """A side that does not end in time is said to be below what it was asked for in that time, and not asked again."""
    ended = threading.Event()

    def answer(_: dict[str, Any]) -> bytes:
        ended.wait(20)
        return WHOLE

    began = time.monotonic()
    try:
        found = run(peer, answer, "--workload=private", "--pairs=3", "--limit=0.2")
    finally:
        ended.set()
    failures = found["figures"]["private"]["failures"]

    assert [(failure["side"], failure["pair"]) for failure in failures] == [("peer open", 0), ("peer isolated", 0)]
    assert all("did not end within 0.2 s (below" in failure["reason"] for failure in failures)
    assert time.monotonic() - began < 20
