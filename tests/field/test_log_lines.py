"""Log lines: each says which process it is from, and none is noise of our own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import logging, sys, threading, warnings
import structlog
from quire_services import logs
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
from quire_services import logs
from quire_services.counters import Counters
from quire_services.http_edge import Edge
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
