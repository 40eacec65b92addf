"""One tenant stops another: floods of requests, of prompts, of choices and of long prompts, on a stack of two engines.

What the other tenant asks for is done before the flood is: it never waits behind all of it.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.models.tiny import make_model
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

CONFIG = "".join(f'[[tenants]]\nname = "{name}"\nkeys = ["sk-{name}"]\n' for name in ("ann", "bob"))
SLOTS, QUEUE = 8, 60  # of each engine; of the gateway
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("noisy")
    model = make_model(tmp / "model", vocab=256)
    flags = ("--max-sequences", str(SLOTS), "--max-queue", str(QUEUE))
    with running_stack(tmp, model, *flags, engines=2, blocks=4096, config=CONFIG) as started:
        yield started


def prompt(seed: int, length: int = 40) -> list[int]:
    """Tokens that no other seed begins with."""
    return [
        seed % 200 + 40,
        seed // 200 + 40,
        *((seed * 37 + i * (2 * seed + 1)) % 200 + 40 for i in range(length - 2)),
    ]


class Flood:
    """Streams of one tenant, each read in a thread of its own.

    Attributes:
        started: choices that have a token, as (request, choice).
        statuses: of the answers, by request.
    """

    def __init__(self, stack: Stack, bodies: list[dict[str, Any]]) -> None:
        self.started: set[tuple[int, int]] = set()
        self.statuses: dict[int, int] = {}
        self._connections: list[http.client.HTTPConnection] = []
        self._stack = stack
        self._threads = [
            threading.Thread(target=self._read, args=(number, body), daemon=True) for number, body in enumerate(bodies)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, number: int, body: dict[str, Any]) -> None:
        connection = http.client.HTTPConnection(self._stack.url.removeprefix("http://"), timeout=120)
        self._connections.append(connection)
        headers = {"content-type": "application/json", "authorization": "Bearer sk-ann"}
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            response = connection.getresponse()
            self.statuses[number] = response.status
            while line := response.readline():
                if line.startswith(b"data: {"):
                    self.started.update((number, choice["index"]) for choice in json.loads(line[6:])["choices"])
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            pass  # it was cut off at the end of the test
        finally:
            connection.close()

    def end(self) -> None:
        """Hang up everywhere."""
        for connection in self._connections:
            if (sock := connection.sock) is not None:
                sock.shutdown(2)
        for thread in self._threads:
            thread.join(30)


@contextmanager
def flood(stack: Stack, bodies: list[dict[str, Any]], begun: int) -> Iterator[Flood]:
    """A flood at its height: ``begun`` of its choices have a token."""
    common = {"model": "m", "stream": True, "temperature": 0, "ignore_eos": True}
    made = Flood(stack, [common | body for body in bodies])
    try:
        wait_for(lambda: len(made.started) >= begun, "the flood", 60)
        yield made
    finally:
        made.end()

        def idle() -> bool:
            return stack.stats().blocks["held"] == 0

        wait_for(idle, "what was hung up is given up", 60)


def served_before(stack: Stack, flooding: Flood, of: int) -> None:
    """The other tenant has answers, one after the other, while some of the flood waits for its first token."""
    for number in range(3):
        stack.complete(prompt(30_000 + number), key="sk-bob", max_tokens=2)
    assert len(flooding.started) < of, "it waited for the flood"


@pytest.mark.source("vllm-project/vllm#31909; llm-d/llm-d-router#1182")
def test_a_flood_of_requests(stack: Stack) -> None:
    """The tenant that fills the queue is answered 429, the other never, and it does not wait behind the flood."""
    bodies = [{"prompt": prompt(n), "max_tokens": 900} for n in range(QUEUE + 60)]
    with flood(stack, bodies, begun=2 * SLOTS) as flooding:
        served_before(stack, flooding, of=QUEUE)
        wait_for(lambda: 429 in flooding.statuses.values(), "the queue is full for the tenant that fills it", 60)
        stack.complete(prompt(40_000), key="sk-bob", max_tokens=2)


@pytest.mark.source("vllm-project/vllm#31909; kubernetes-sigs/gateway-api-inference-extension#1797")
def test_one_request_of_many_prompts(stack: Stack) -> None:
    """1,024 prompts in one request are 1,024 requests of one tenant; others are served in between."""
    body = {"prompt": [prompt(1000 + n, 24) for n in range(1024)], "max_tokens": 40}
    with flood(stack, [body], begun=2 * SLOTS) as flooding:
        served_before(stack, flooding, of=1024)


@pytest.mark.source("vllm-project/vllm#31909; kubernetes-sigs/gateway-api-inference-extension#1797")
def test_requests_of_many_choices(stack: Stack) -> None:
    """Requests that each want all slots take those that are free, and give some back."""
    bodies = [{"prompt": prompt(3000 + n), "max_tokens": 900, "n": SLOTS} for n in range(16)]
    with flood(stack, bodies, begun=2 * SLOTS) as flooding:
        served_before(stack, flooding, of=16 * SLOTS)


@pytest.mark.source("vllm-project/vllm#10774")
def test_a_flood_of_long_prompts(stack: Stack) -> None:
    """The token budget is shared: a short prompt is computed beside long ones that came first, and so is its answer."""
    bodies = [{"prompt": prompt(4000 + n, 900), "max_tokens": 4} for n in range(QUEUE - 5)]
    with flood(stack, bodies, begun=1) as flooding:
        served_before(stack, flooding, of=QUEUE - 5)
