"""Bodies that cost more than they look: reading them holds up no other request, and takes bounded memory."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from quire_services.gateway.readers.reader_process import READER_MEMORY
from tests.support.gateway import GatewayProcess
from tests.support.http_server import RawConnection, post
from tests.support.peer_engine import PeerEngine
from tests.support.waits import wait_for

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
MIB = 1 << 20
LONGEST = 50_000
KEYS = """
[[tenants]]
name = "acme"
keys = ["key-of-acme"]
[[tenants]]
name = "borea"
keys = ["key-of-borea"]
"""
ACME, BOREA = (
    {"authorization": f"Bearer key-of-{name}", "content-type": "application/json"} for name in ("acme", "borea")
)
WORDS = "the quick brown fox jumps over the lazy dog. "


@pytest.fixture(scope="module")
def gateway(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    config: Path = tmp_path_factory.mktemp("config") / "quire.toml"
    config.write_text(KEYS)
    config.chmod(0o600)
    process = GatewayProcess(model, f"--max-body-bytes={32 * MIB}", config=config).wait()
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="module")
def engine(gateway: GatewayProcess) -> Iterator[PeerEngine]:
    """One that goes on reporting."""
    peer, ended = gateway.engine(max_model_len=LONGEST), threading.Event()

    def report() -> None:
        while not ended.wait(1):
            peer.load(ready=True)

    reporting = threading.Thread(target=report)
    reporting.start()
    yield peer
    ended.set()
    reporting.join()
    peer.close()


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "max_tokens": 1} | fields).encode()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def ask(gateway: GatewayProcess, path: str, content: bytes, headers: dict[str, str] = ACME) -> httpx.Response:
    return httpx.post(gateway.url + path, content=content, headers=headers, timeout=100)


def tree(gateway: GatewayProcess) -> list[psutil.Process]:
    """The gateway's children: the fork server and its readers."""
    return psutil.Process(gateway.process.pid).children(recursive=True)


def at_work(gateway: GatewayProcess) -> bool:
    """Whether a reader computes."""
    busy = False
    for process in tree(gateway):
        with contextlib.suppress(psutil.Error):
            busy |= process.cpu_percent(0.1) > 20
    return busy


HOSTILE: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "a long chat": (CHAT, lambda: body(messages=[user(WORDS * 20_000)]), 400),
    "a long word": (PLAIN, lambda: body(prompt="w" * 2_000_000), 400),
    "empty messages": (CHAT, lambda: body(messages=[user("")] * 200_000), 400),
    "parts": (CHAT, lambda: body(messages=[user([{"type": "text", "text": "a"}] * 200_000)]), 400),
    "messages in error": (CHAT, lambda: body(messages=[user(5)] * 20_000), 400),
    "ids": (PLAIN, lambda: body(prompt=[7] * 2_000_000), 400),
    "prompts": (PLAIN, lambda: body(prompt=[[7]] * 200_000), 400),
    "unknown objects": (PLAIN, lambda: body(prompt="w", x=[{}] * 1_000_000), 200),
    "depth": (PLAIN, lambda: body(prompt="w")[:-1] + b',"x":' + b"[" * 10**6 + b"]" * 10**6 + b"}", 400),
}


@pytest.mark.source("vllm-project/vllm#24910", "vllm-project/vllm#1026")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_answered_and_holds_nobody_up(gateway: GatewayProcess, engine: PeerEngine, name: str) -> None:
    """While it is read the gateway's loop goes on: its longest pause is a fraction of what the reading takes."""
    path, make, status = HOSTILE[name]
    content, pauses = make(), [0.0]
    with ThreadPoolExecutor(1) as pool, httpx.Client() as probe:
        probe.get(gateway.url + "/health")
        began = time.monotonic()
        answer = pool.submit(ask, gateway, path, content)
        while not answer.done():
            sent = time.monotonic()
            probe.get(gateway.url + "/health")
            pauses.append(time.monotonic() - sent)
        took = time.monotonic() - began

    assert answer.result().status_code == status, answer.result().text
    assert max(pauses) < max(0.4, 0.25 * took)  # the bound on an idle machine is 0.1
    assert gateway.health()["status"] == "ok"


@pytest.mark.slow
@pytest.mark.source("vllm-project/vllm#24910")
def test_another_tenant_does_not_wait_its_turn_behind_long_bodies(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Six long chats of one tenant at once: a second tenant's chat of 30 kB, and its long one, come before the last."""
    long = body(messages=[user(WORDS * 60_000)])
    with ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        six = [pool.submit(ask, gateway, CHAT, long) for _ in range(6)]
        wait_for(lambda: at_work(gateway), "a reader is at work")
        short = pool.submit(ask, gateway, CHAT, body(messages=[user(WORDS * 660)]), BOREA)
        assert short.result().status_code == 200
        soon = time.monotonic() - began
        assert ask(gateway, CHAT, long, BOREA).status_code == 400
        left = sum(not one.done() for one in six)
        assert {one.result().status_code for one in six} == {400}

    assert soon < (time.monotonic() - began) / 2
    assert left >= 2


@pytest.mark.source("vllm-project/vllm#24910", "vllm-project/vllm#10635")
def test_a_hang_up_ends_the_reading(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Of six long bodies that are sent and given up, nothing is left at work, and the next is read at once."""
    head = ACME["authorization"].encode()
    wires = [
        RawConnection(gateway.port, post(b"/v1/completions", body(prompt="w" * 4_000_000), b"authorization: " + head))
    ]
    wait_for(lambda: at_work(gateway), "a reader is at work")
    reading = {process.pid for process in tree(gateway)}
    wires += [
        RawConnection(gateway.port, post(b"/v1/completions", body(prompt="w" * 4_000_000), b"authorization: " + head))
        for _ in range(5)
    ]
    for wire in wires:
        wire.socket.close()
    wait_for(lambda: not at_work(gateway), "no reader is at work")

    assert len(reading - {process.pid for process in tree(gateway)}) >= 1
    assert ask(gateway, CHAT, body(messages=[user(WORDS * 300)])).status_code == 200


@pytest.mark.slow
@pytest.mark.source("vllm-project/vllm#24910")
def test_a_body_takes_bounded_memory(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """One that takes more is answered 413; neither its reader nor the gateway has grown beyond the bound."""
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for process in [psutil.Process(gateway.process.pid), *tree(gateway)]:
                with contextlib.suppress(psutil.Error):
                    peaks[process.pid] = max(peaks.get(process.pid, 0), process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        answer = ask(gateway, PLAIN, body(prompt="w")[:-1] + b',"x":[' + b"{}," * 9_000_000 + b"{}]}")
    finally:
        ended.set()
        watching.join()

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert peaks.pop(gateway.process.pid) < 350 * MIB
    assert max(peaks.values()) < READER_MEMORY + 200 * MIB
    assert ask(gateway, PLAIN, body(prompt="the fox")).status_code == 200


@pytest.mark.source("vllm-project/vllm#24910")
def test_a_body_beyond_the_limit_is_refused_before_it_is_read(model: Any) -> None:
    """413 by the length it announces, or as soon as it is longer; by default 64 bytes a token, at least 4 MiB."""
    process = GatewayProcess(model).wait()
    try:
        process.engine(max_model_len=100_000)
        announced = (
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        with RawConnection(process.port, announced % (6_400_001)) as wire:
            assert wire.answer()[0] == 413
        chunked = announced.partition(b"content-length")[0] + b"transfer-encoding: chunked\r\n\r\n"
        with RawConnection(process.port, chunked) as wire:
            for _ in range(7):
                wire.say(b"100000\r\n" + b" " * MIB + b"\r\n")
            assert wire.answer()[0] == 413
    finally:
        assert process.stop() == 0


@pytest.mark.source("vllm-project/vllm#24910")
@pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGTERM, id="stopped", marks=pytest.mark.slow), pytest.param(signal.SIGKILL, id="killed")],
)
def test_readers_end_with_the_gateway(model: Any, how: signal.Signals) -> None:
    """However it ends, none of the processes that it has started is left, whatever they were doing."""
    process = GatewayProcess(model, "--drain-s=0").wait()
    process.engine(max_model_len=LONGEST)
    with RawConnection(process.port, post(b"/v1/completions", body(prompt="w" * 4_000_000))):
        wait_for(lambda: at_work(process), "a reader is at work")
        children = tree(process)
        process.process.send_signal(how)
        _, left = psutil.wait_procs(children, timeout=10)
    for one in process.engines:
        one.close()
    process.ended()

    assert len(children) >= 2
    assert left == []
