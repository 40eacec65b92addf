"""The tracer: what it costs when it is off, and when nothing takes its spans."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from quire_services.process.reason import StartError
from quire_services.tracing.switch import start_tracer
from tests.support.otlp_receiver import otlp_receiver
from tests.support.ports import free_port
from tests.support.repository import child_environ

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXT = f"00-{TRACE}-00f067aa0ba902b7-01"
DOWN = """
import sys, time
from quire_services.process import logs
from quire_services.tracing.switch import start_tracer
logs.configure("gateway")
tracer = start_tracer("gateway", "g", sys.argv[1])
for _ in range(40):
    for _ in range(500):
        tracer.join(sys.argv[2], "work").end()
    time.sleep(0.01)
tracer._batches.force_flush()
began = time.monotonic()
tracer.close()
print(time.monotonic() - began, len(tracer._batches._batch_processor._queue))
"""


def test_without_an_endpoint_there_is_no_tracer_and_no_import() -> None:
    """The daemons that could trace are imported, and nothing of OpenTelemetry's SDK with them."""
    code = """
import sys
import quire_services.daemons.kvstored, quire_services.gateway.edge
from quire_services.tracing.switch import start_tracer
assert start_tracer("kvstore", "k", "") is None
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=child_environ(), timeout=120
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://collector/v1/traces", "http:///v1/traces"])
def test_what_is_no_url_is_refused(endpoint: str) -> None:
    """By a sentence that shows one."""
    with pytest.raises(StartError, match="a URL like http://"):
        start_tracer("gateway", "g", endpoint)


def test_without_the_extra_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that brings it is in the reason."""
    for name in ("opentelemetry", "quire_services.tracing.otel_tracer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StartError, match=r"pip install 'quire-kv\[tracing\]'"):
        start_tracer("gateway", "g", "http://127.0.0.1:4318/v1/traces")


@pytest.mark.process
def test_an_endpoint_that_is_down_costs_spans_and_one_line() -> None:
    """Far more spans than the queue has places are made at once; one line says that they are lost, and why; the process
    ends without waiting for long."""
    pytest.importorskip("opentelemetry.sdk")
    environ = {**child_environ(), "OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1"}
    command = [sys.executable, "-P", "-c", DOWN, f"http://127.0.0.1:{free_port()}/v1/traces", CONTEXT]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=150)
    seconds, queued = done.stdout.split()

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], bool(line["reason"])) for line in lines] == [("spans_lost", True)]
    assert (float(seconds) < 10, int(queued) <= 2048, done.returncode) == (True, True, 0)


def test_spans_go_out_with_who_made_them() -> None:
    """Name, parent, times and resource arrive; a child is its parent's; a failure has a code and no sentence."""
    pytest.importorskip("opentelemetry.sdk")
    with otlp_receiver() as received:
        tracer = start_tracer("engine", "engine-7", received.url)
        assert tracer is not None
        began = time.monotonic() - 5
        span = tracer.join(CONTEXT, "generate", {"quire.n": 2}, at=began)
        assert span is not None
        span.child("queue", at=began).end(error="no_room", at=began + 1)
        span.end()
        assert tracer.join("nonsense", "work") is None
        assert tracer.join("00" + "-" * 600, "work") is None
        tracer.close()
        found = {one.name: one for one in received.trace(TRACE, lambda found: len(found) == 2)}

    outer, inner = found["generate"], found["queue"]  # which began at the same time
    assert (outer.service, outer.instance, outer.parent) == ("quire-engine", "engine-7", "00f067aa0ba902b7")
    assert (inner.parent, inner.failed, inner.attributes) == (outer.id, True, {"error.type": "no_room"})
    assert (inner.ended - inner.began) // 10**8 in (9, 10)
