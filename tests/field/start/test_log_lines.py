"""Log lines: each says which process it is from, and none is noise of our own."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from quire_services.process import reason

CODE = """
import logging, sys, threading, warnings
import structlog
from quire_services.process import logs
logs.configure("engine-1")
structlog.get_logger().info("here", pid=1)
threads = [
    threading.Thread(target=lambda: structlog.get_logger("x").info("thread")),
    threading.Thread(target=lambda: logging.getLogger("lib").warning("library %s", 1)),
    threading.Thread(target=lambda: 1 / 0),
]
for thread in threads:
    thread.start()
    thread.join()
warnings.warn("old")
raise RuntimeError("the end\\nof it")
"""


@pytest.mark.process
@pytest.mark.source("hynek/structlog#297")
def test_every_line_names_service_and_process() -> None:
    """From any thread, of libraries, warnings, and exceptions that nothing caught: one JSON object each."""
    process = subprocess.Popen([sys.executable, "-c", CODE], stderr=subprocess.PIPE, text=True)
    _, told = process.communicate(timeout=60)
    lines = [json.loads(line) for line in told.splitlines()]
    assert {(line["service"], line["pid"]) for line in lines} == {("engine-1", process.pid)}
    assert [line["event"].splitlines()[0][:9] for line in lines[:3]] == ["here", "thread", "library 1"]
    assert [line.get("reason", "") for line in lines if line["event"] == "uncaught_exception"] == [
        "ZeroDivisionError: division by zero", "RuntimeError: the end",
    ]  # fmt: skip
    assert all("UserWarning: old" in line["event"] for line in lines[4:5])
    assert (len(lines), process.returncode) == (6, 1)


@pytest.mark.process
@pytest.mark.source("ggml-org/llama.cpp#19028", "BerriAI/litellm#31511")
def test_probes_are_not_logged() -> None:
    """A gateway that is asked for its health a hundred times while it has no engine says nothing of it."""
    code = """
import asyncio, os
from quire_services.process import logs
from quire_services.gateway.counters import Counters
from quire_services.gateway.edge import Edge
logs.configure("gateway")
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b""})
async def nothing(*_):
    return {"type": "http.request", "body": b""}
for path in ["/health"] * 100 + ["/v1/models"]:
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(Edge(app, lambda _: "t", Counters())(scope, nothing, nothing))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert [json.loads(line)["path"] for line in told.stderr.splitlines()] == ["/v1/models"]


def on_a_terminal(code: str, **environ: str) -> str:
    """What a process prints to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, env={**os.environ, **environ}
    )
    os.close(theirs)
    told = b""
    with suppress(OSError):  # EIO: it has ended
        while piece := os.read(ours, 4096):
            told += piece
    os.close(ours)
    assert process.wait(60) == 0, told
    return told.decode()


LINES = """
import structlog
from quire_services.process import logs
logs.configure("gateway", form={form!r})
structlog.get_logger().info("listening", port=1)
structlog.get_logger().warning("odd", what="x y")
"""


@pytest.mark.process
@pytest.mark.source("apollographql/router#226", "vllm-project/vllm#2397")
def test_readable_on_a_terminal_and_json_elsewhere() -> None:
    """By itself, or as asked for; in a file neither colours nor cursor movements."""
    for form, told in (
        ("auto", on_a_terminal(LINES.format(form="auto"))),
        ("console", subprocess.run(
            [sys.executable, "-c", LINES.format(form="console")], stderr=subprocess.PIPE, text=True, timeout=60
        ).stderr),
    ):  # fmt: skip
        assert ("\x1b" in told) == (form == "auto")
        plain = re.sub(r"\x1b\[[0-9;]*[mK]|\r", "", told).splitlines()
        assert re.match(r"\d\d:\d\d:\d\d \[info +\] gateway\[\d+\] listening +port=1$", plain[0])
        assert re.match(r"\d\d:\d\d:\d\d \[warning +\] gateway\[\d+\] odd +what='x y'$", plain[1])
    told = on_a_terminal(LINES.format(form="json"))
    assert [json.loads(line)["event"] for line in told.splitlines()] == ["listening", "odd"]


@pytest.mark.process
@pytest.mark.source("ggml-org/llama.cpp#5700")
def test_nothing_is_said_twice_on_a_terminal() -> None:
    """What the supervisor says in its own words its processes leave out, on a terminal; alone they say it."""
    told = on_a_terminal(LINES.format(form="auto"), **{reason.REASON_VARIABLE: "9"})
    assert ("listening" in told, "odd" in told) == (False, True)
    told = on_a_terminal(LINES.format(form="json"), **{reason.REASON_VARIABLE: "9"})
    assert "listening" in told


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.source("ggml-org/llama.cpp#19028", "vllm-project/vllm#6569")
def test_the_first_minute_on_a_terminal(tmp_path: Path) -> None:
    """From the command to readiness a person sees a handful of lines, and what is waited for below them."""
    model = make_model(tmp_path / "model", vocab=128, hidden=32, heads=2, kv_heads=1)
    code = f"""
import os, signal, sys
from quire_services.process import screen
from quire_services.stack import serve
line = screen.Screen.line
def stop_when_ready(self, text):
    line(self, text)
    if text.startswith("ready:"):
        os.kill(os.getpid(), signal.SIGTERM)
screen.Screen.line = stop_when_ready
sys.exit(serve.main(["--model={model}", "--run-dir={tmp_path / "run"}", "--port=0", "--blocks=64"]))
"""
    told = on_a_terminal(code)
    assert "waiting for engine-1, gateway (" in told
    lines = [line.split("\x1b[K")[-1] for line in told.split("\r\n")]
    start = lines[: next(n for n, line in enumerate(lines) if line.startswith("ready: "))]
    assert len(start) <= 12, start
    assert not [line for line in start if "{" in line or "/health" in line]
