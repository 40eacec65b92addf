"""Routers from PyPI, unmodified, in front of two hosts: a prompt goes where its beginning is cached, and hits.

Each runs in an environment of its own (``scripts/client_envs.py``). A hit is counted by the host that answers: what it
says is cached of a prompt that the other host has never seen.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client_environments import client_environment
from tests.support.ports import free_port
from tests.support.repository import ROOT, script
from tests.support.stack import Stack
from tests.support.waits import wait_for

MADE = ROOT / ".clients"
START_S = 120.0
ROUNDS = 4
pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(480)]
Hosts = tuple[Stack, Stack]
REPLAYED = re.compile(r"replay sequence advanced source=(\S+)")


def environment(name: str) -> Path:
    """Where the programs of a router are; skips where it cannot be installed."""
    envs: Any = script("client_envs")
    assert name in envs.routers()
    return client_environment(name, MADE) / "bin"


@contextmanager
def running(command: Sequence[str | Path], port: int, log: Path, path: str = "/health") -> Iterator[httpx.Client]:
    """A router until the end of the block, and a client of it."""
    with (
        log.open("wb") as out,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
    ):
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=subprocess.STDOUT, cwd=log.parent)

        def answers() -> bool:
            assert process.poll() is None, log.read_text()[-4000:]
            try:
                return client.get(path).status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_for(answers, "the router answers", START_S)
            yield client
        finally:
            process.kill()
            process.wait()


def said(log: Path) -> str:
    """What a router logged, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())


def chat(name: str, question: int) -> dict[str, Any]:
    """A request whose beginning is the same for all questions, and long."""
    system = " ".join(f"{name} has rule {number}: be brief." for number in range(24))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"question {question}"}]
    return {"model": "m", "messages": messages, "max_tokens": 2, "temperature": 0}


def cached(answer: httpx.Response) -> float:
    """Share of a prompt that was cached where it was answered."""
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    return float(usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"])


def ask(client: httpx.Client, name: str, question: int) -> float:
    """The same of a chat."""
    return cached(client.post("/v1/chat/completions", json=chat(name, question)))


def prompt_hits(host: Stack) -> int:
    """Tokens of prompts that a host's kvstore found cached, ever."""
    return host.stats().counters["hit_tokens"]


def prefill(hosts: Hosts, router: str) -> None:
    """A prompt of its own for each host, which the other has never seen."""
    for number, host in enumerate(hosts):
        assert ask(host.http, f"{router} {number}", 0) < 0.2


def test_vllm_router_finds_what_each_host_has(hosts: Hosts, tmp_path: Path) -> None:
    """``kv_aware``, which is told nothing but the addresses: it asks for sources, replays, and renders."""
    bin_dir, port = environment("vllm_router"), free_port()
    prefill(hosts, "vllm")
    command = [
        bin_dir / "vllm-router", "--policy", "kv_aware", "--worker-urls", *(host.url for host in hosts), "--host",
        "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()), "--worker-startup-check-interval", "1",
        "--log-level", "debug",
    ]  # fmt: skip
    before = [prompt_hits(host) for host in hosts]
    with running(command, port, log := tmp_path / "log") as client:
        for number, host in enumerate(hosts):
            ask(host.http, f"vllm {number}", ROUNDS)  # a live batch shows it that it missed some
        wait_for(lambda: len(set(REPLAYED.findall(said(log)))) == 2, "both hosts' events are replayed")
        shares = [ask(client, f"vllm {number}", question) for question in range(1, ROUNDS) for number in (0, 1)]

    assert min(shares) > 0.8, shares
    assert all(prompt_hits(host) > found for host, found in zip(hosts, before, strict=True))
    assert "noncontiguous" not in said(log)


def test_dynamo_selects_the_host_that_has_a_prompt(hosts: Hosts, tmp_path: Path) -> None:
    """Its selection service counts every cached block, as one of the tier that computes; the request then hits."""
    bin_dir, port = environment("dynamo"), free_port()
    prefill(hosts, "dynamo")
    command = [bin_dir / "python", "-m", "dynamo.select_service", "--port", str(port)]
    with running(command, port, tmp_path / "log") as client:
        for number, host in enumerate(hosts):
            source = host.http.get("/kv_event_sources").json()["0"]
            worker = {
                "worker_id": number,
                "model_name": "m",
                "endpoint": host.url,
                "kv_events_endpoints": {"0": source["endpoint"]},
                "replay_endpoint": source["replay_endpoint"],
                "block_size": host.http.get("/get_server_info").json()["kv_block_size"],
                "max_num_batched_tokens": 512,
            }
            answer = client.post("/workers", json=worker)
            assert answer.status_code in (200, 201), answer.text
            ask(host.http, f"dynamo {number}", 1)  # a live batch shows it that it missed some
        for question in range(2, 2 + ROUNDS):
            for number in (0, 1):
                body = chat(f"dynamo {number}", question)
                tokens = hosts[0].http.post("/v1/chat/completions/render", json=body).json()["token_ids"]

                def selected(tokens: list[int] = tokens) -> dict[str, Any]:
                    answer = client.post("/select", json={"model_name": "m", "token_ids": tokens})
                    assert answer.status_code == 200, answer.text
                    found: dict[str, Any] = answer.json()
                    return found

                wait_for(lambda n=number, f=selected: f()["worker_id"] == n, "the host that has it")
                assert ask(hosts[number].http, f"dynamo {number}", question) > 0.8


def test_smg_keeps_a_prompt_where_it_was(hosts: Hosts, tmp_path: Path) -> None:
    """``cache_aware``: it remembers the text that it sent, and a prompt goes on where it began."""
    bin_dir, port = environment("smg"), free_port()
    command = [
        bin_dir / "smg", "launch", "--policy", "cache_aware", "--worker-urls", *(host.url for host in hosts), "--host",
        "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()),
    ]  # fmt: skip
    with running(command, port, tmp_path / "log") as client:
        wait_for(
            lambda: client.post("/v1/chat/completions", json=chat("smg", 0)).status_code == 200,
            "it has workers",
            START_S,
        )
        for name in ("smg 1", "smg 2"):
            assert ask(client, name, 0) < 0.2
        shares = [ask(client, name, question) for question in range(1, ROUNDS) for name in ("smg 1", "smg 2")]

    assert min(shares) > 0.8, shares
