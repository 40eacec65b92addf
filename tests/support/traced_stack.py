"""A gateway process, a kvstore process and two engines in this one, all of which send their spans to a receiver here.

Each engine computes as many steps as a test lets it (``Gate``).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from quire_engine.engine import Engine
from quire_engine.scheduling.front import Front
from quire_proto.gateway_link import Hello
from quire_proto.wire.u32 import pack_u32
from quire_services.tracing.switch import start_tracer
from tests.support.engine_loop import engine_on, kvstore
from tests.support.engine_pair import Gate
from tests.support.gateway import GatewayProcess, write_tokenizer
from tests.support.otlp_receiver import OtlpReceiver, Told, otlp_receiver
from tests.support.ports import free_port
from tests.support.waits import wait_for

VOCAB, EOS, LONGEST = 320, 1, 2048
CALLER = "00f067aa0ba902b7"  # the span of whoever asks


@dataclass
class Traced:
    """The parts of it."""

    gateway: GatewayProcess
    received: OtlpReceiver
    engines: dict[str, Engine]
    gates: dict[str, Gate]
    admin: httpx.Client
    kvstore_log: Path

    def ask(self, trace: str, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        """Send a request as a part of a trace."""
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "the quick brown fox " * 4}], **body}
        headers = {"traceparent": f"00-{trace}-{CALLER}-01", "content-type": "application/json"}
        return self.gateway.http.post(path, content=json.dumps(asked), headers=headers, timeout=60)

    def open(self) -> None:
        """Let everything compute."""
        for gate in self.gates.values():
            gate.open()

    def holder(self) -> str:
        """The engine that has something to do."""
        return wait_for(lambda: next((n for n, e in self.engines.items() if e.load().running), ""), "one has it", 30)


def new_trace() -> str:
    """An id of a trace."""
    return secrets.token_hex(16)


def tree(spans: list[Told]) -> dict[str, list[str]]:
    """Names of what is within each span, by its name; of the caller's, whose name is not known, ""."""
    names = {CALLER: ""} | {one.id: one.name for one in spans}
    within: dict[str, list[str]] = {}
    for one in spans:
        within.setdefault(names[one.parent], []).append(one.name)
    return {name: sorted(inner) for name, inner in within.items()}


@contextmanager
def traced(tmp: Path) -> Iterator[Traced]:
    """Start them."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        received = stack.enter_context(otlp_receiver())
        flag = f"--otlp-traces-endpoint={received.url}"
        run_dir, model = stack.enter_context(kvstore(tmp, 128, flag, vocab=VOCAB))
        write_tokenizer(model)
        port = free_port()
        gateway = GatewayProcess(model, flag, f"--admin-port={port}", "--hold-s=2")
        stack.callback(gateway.stop)
        gateway.wait()
        gates, engines = {}, {}
        for name in ("engine-1", "engine-2"):
            gate = gates[name] = Gate()
            gate.open()
            stack.callback(gate.open)
            hello = Hello(name, "tiny", LONGEST, VOCAB, pack_u32([EOS]), 1)
            tracer = start_tracer("engine", name, received.url)
            assert tracer is not None
            stack.callback(tracer.close)
            link = partial(_front, gateway.run_dir / "gateway.sock", hello)
            on = engine_on(run_dir, model, gate.runner, name=name, prefill=False, link=link, tracer=tracer)
            engines[name], front = stack.enter_context(on)
            stack.callback(front.stop)
            front.start()
        wait_for(lambda: gateway.health()["engines"]["ready"] == 2, "both are ready", 60)
        token = (gateway.run_dir / "admin.token").read_text().strip()
        base, headers = f"http://127.0.0.1:{port}/admin", {"authorization": f"Bearer {token}"}
        admin = stack.enter_context(httpx.Client(base_url=base, headers=headers, timeout=30, trust_env=False))
        yield Traced(gateway, received, engines, gates, admin, run_dir / "log")


def _front(socket: Path, hello: Hello, engine: Engine) -> Front:
    return Front(socket, hello, engine.load)


def events(body: str) -> list[Any]:
    """The objects of a stream."""
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
