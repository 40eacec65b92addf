"""Groups and publications change under a running engine: what it asked for by an old list is told to match again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire_proto.client.client import KVClient, KVReader
from quire_proto.messages import RETRY, Stepped
from quire_proto.wire.u32 import pack_u32
from tests.support.engine_loop import Bench, running_engine, words
from tests.support.engine_pair import Gate
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
PROMPT, OTHER = words(37, 5), words(41, 90)
FULL = 8  # batch slots of the engine
GATE = Gate()  # lets the engine's steps begin


class Listening(KVClient):
    """A client that counts how often an allocate was answered RETRY."""

    retries = 0

    def call(self, op: Any, body: Any) -> Any:
        reply = super().call(op, body)
        if isinstance(reply, Stepped):
            Listening.retries += sum(item.code == RETRY for item in reply.allocates)
        return reply


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """An engine whose tenant is a member of ``research``, with PROMPT published there and computed."""
    Listening.retries = 0
    GATE.open()
    with running_engine(tmp_path, GATE.runner, Listening) as bench, KVReader(bench.run_dir) as kvstore:
        kvstore.join("tenant", "research")
        kvstore.publish("p", "research", pack_u32(PROMPT))
        wait_for(lambda: kvstore.lookup(publication="p").tokens == len(PROMPT), "the engine computed it", 30)
        yield bench


def cached(bench: Bench, name: str, prompt: list[int]) -> int:
    """Cached tokens of a request that ends with the right tokens."""
    bench.ask(name, prompt)
    bench.end(name)
    assert bench.front.tokens[name, 0] == bench.reference.greedy(prompt, 8)
    return bench.front.firsts[name, 0].cached_tokens


def held_up(bench: Bench, name: str, prompt: list[int]) -> None:
    """A request that was matched with the list of now and finds no batch slot until the gate is open."""
    GATE.shut()
    bench.ask("long", words(20, 60), n=FULL, max_tokens=30)
    step_until(lambda: bench.engine.load().running == FULL, "all slots are taken")
    bench.ask(name, prompt)
    step_until(lambda: bench.engine.load().waiting == 1, "it waits")


def step_until(condition: Callable[[], bool], what: str) -> None:
    """Let the engine step, one at a time, until the condition holds."""

    def stepped() -> bool:
        if not condition() and not GATE._left:
            GATE.allow(1)
        return condition()

    wait_for(stepped, what, 60)


def test_who_leaves_while_waiting_computes_alone(bench: Bench) -> None:
    """The allocate names a publication that is the tenant's no more: RETRY, and then a private sequence."""
    with KVReader(bench.run_dir) as kvstore:
        assert cached(bench, "before", [*PROMPT, 9]) == len(PROMPT)
        held_up(bench, "meanwhile", [*PROMPT, 9, 9])
        kvstore.leave("tenant", "research")
        GATE.open()
        bench.end("meanwhile")

        assert bench.front.firsts["meanwhile", 0].cached_tokens == 0
        assert bench.front.tokens["meanwhile", 0] == bench.reference.greedy([*PROMPT, 9, 9], 8)
        assert Listening.retries == 1
        assert cached(bench, "own", [*PROMPT, 9, 9]) == (len(PROMPT) + 1) // 16 * 16  # what it computed itself
        kvstore.join("tenant", "research")
        known = bench.engine._kv.client.publications  # type: ignore[union-attr]
        wait_for(
            lambda: known.generation == kvstore.fetch_publications().generation, "a heartbeat brought the news", 20
        )
        assert cached(bench, "again", [*PROMPT, 8]) == len(PROMPT)


def test_a_publication_that_changes_while_a_request_waits_is_matched_again(bench: Bench) -> None:
    """Unpublished, or another prompt under its id: RETRY, a private sequence, the right tokens; the new one is hit."""
    with KVReader(bench.run_dir) as kvstore:
        held_up(bench, "meanwhile", [*PROMPT, 9])
        kvstore.publish("p", "research", pack_u32(OTHER))
        GATE.open()
        bench.end("meanwhile")

        assert bench.front.firsts["meanwhile", 0].cached_tokens == 0
        assert bench.front.tokens["meanwhile", 0] == bench.reference.greedy([*PROMPT, 9], 8)
        assert Listening.retries == 1
        wait_for(lambda: kvstore.lookup(publication="p").tokens == len(OTHER), "the engine computed the new one", 30)
        assert cached(bench, "new", [*OTHER, 9]) == len(OTHER)


def test_what_is_published_while_a_request_waits_is_found(bench: Bench) -> None:
    """A request that was matched with an older list than the engine has by now is matched again, not computed alone."""
    with KVReader(bench.run_dir) as kvstore:
        held_up(bench, "meanwhile", [*OTHER, 9])
        kvstore.publish("q", "research", pack_u32(OTHER))
        client = bench.engine._kv.client  # type: ignore[union-attr]
        wait_for(lambda: client.publications_stale, "a heartbeat brought the news")
        step_until(lambda: not client.publications_stale, "the engine has the list")
        assert bench.engine.load().waiting, "the request waits still"
        GATE.open()
        bench.end("meanwhile")

        assert bench.front.tokens["meanwhile", 0] == bench.reference.greedy([*OTHER, 9], 8)
        assert Listening.retries == 1
