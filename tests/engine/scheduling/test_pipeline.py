"""Two steps in flight: the tokens stay those of ``generate``, and nothing is given up before its work is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire_engine.attention.triton import TritonAttention
from quire_engine.kv.attach import arena_of
from quire_engine.kv.kv_session import KvSession
from quire_engine.kv.step_grants import StepGrants
from quire_engine.model.graphs import DecodeGraphs
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_engine.sequences.step_plan import StepPlan
from quire_proto.client.client import KVClient
from quire_proto.gateway_link import Abort
from quire_proto.wire.u32 import pack_u32
from tests.engine.scheduling.slow_device import Watch, WorkerQueue
from tests.support.engine_loop import Bench, running_engine, words
from tests.support.waits import wait_for

LATE_S = 0.004


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def bench(tmp_path: Any, watch: Watch) -> Iterator[Bench]:
    def make(model: Any, client: Any) -> Any:
        return watch.runner(model, client, WorkerQueue(LATE_S))

    with running_engine(tmp_path, make, watch.client()) as started:
        yield started


def everything(bench: Bench) -> None:
    """Shared and private prompts, stop tokens, a fork, aborts, and more sequences than the pool holds."""
    stopping = words(20, 5)
    stop = bench.reference.greedy(stopping, 4)[3]
    bench.ask("stop", stopping, stop_token_ids=pack_u32([stop]))
    bench.ask("fork", words(40, 9), n=3, max_tokens=12)  # three branches fill one block with the same: duplicates
    bench.ask("part", words(40, 11), n=3, max_tokens=40, temperature=1.0)
    bench.ask("gone", words(60, 3), max_tokens=200)
    wait_for(lambda: len(bench.front.tokens.get(("part", 2), [])) > 2, "the request has forked", 30)
    bench.front.inbox.put(Abort("part", 1, every=False))
    bench.front.inbox.put(Abort("gone"))
    bench.ask("twin-1", words(70, 21))
    bench.ask("twin-2", words(70, 21))
    assert bench.end("stop").finish == "stop"
    assert bench.front.tokens["stop", 0] == bench.reference.greedy(stopping, 4)
    assert [bench.end("part", i).finish for i in (0, 2)] == ["length"] * 2
    twin = words(70, 21)
    for name, prompt, n, count in (("fork", words(40, 9), 3, 12), ("twin-1", twin, 1, 8), ("twin-2", twin, 1, 8)):
        for index in range(n):
            bench.end(name, index)
            assert bench.front.tokens[name, index] == bench.reference.greedy(prompt, count)
    small = {f"small-{i}": words(50 + 5 * i, 7 * i) for i in range(8)}
    for name, prompt in small.items():
        bench.ask(name, prompt, max_tokens=70)
    for name, prompt in small.items():
        bench.end(name)
        assert bench.front.tokens[name, 0] == bench.reference.greedy(prompt, 70)
    assert bench.engine.load().counters["preemptions"] > 0


@pytest.mark.process
def test_tokens_are_the_same_and_nothing_is_given_up_early(bench: Bench, watch: Watch) -> None:
    """Whatever ends, forks, swaps or is preempted with steps in flight, every word to the kvstore waits for them."""
    everything(bench)
    bench.empty()
    assert watch.too_early == []
    assert watch.most == 2
    assert all(watch.said[kind] for kind in ("releases", "swaps", "copies_done", "fills", "beside work")), watch.said


@pytest.mark.process
def test_a_release_at_launch_would_be_seen(bench: Bench, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With completion taken for granted at launch the same load gives blocks up while work still names them."""
    sync = KvSession.sync

    def hasty(kv: KvSession, plan: StepPlan) -> StepGrants:
        kv._retire.completed = kv.step
        return sync(kv, plan)

    monkeypatch.setattr(KvSession, "sync", hasty)
    monkeypatch.setattr(KvSession, "completed", lambda *_: None)
    bench.ask("stop", words(20, 5), stop_token_ids=pack_u32([bench.reference.greedy(words(20, 5), 4)[3]]))
    bench.end("stop")
    bench.ask("fork", words(40, 9), n=3)
    bench.end("fork", 2)
    wait_for(lambda: watch.too_early, "a release while work names its blocks", 10)


@pytest.mark.process
def test_replayed_decode_steps_feed_each_other(tmp_path: Path) -> None:
    """Triton kernels, graphs and two steps in flight: unseen tokens go from replay to replay, and all are right."""
    made: list[DecodeGraphs] = []

    def make(model: Model, client: KVClient) -> Runner:
        backend = TritonAttention(arena_of(client), model.heads)
        made.append(DecodeGraphs(model, backend, 8, lambda launch: launch))
        runner = Runner(model, backend, WorkerQueue(LATE_S), made[0])
        made[0].make()
        return runner

    with running_engine(tmp_path, make, hidden=32, heads=2, kv_heads=1) as bench:
        asked = {"first": (words(35), 1), "second": (words(35)[:32] + words(6, 9), 1), "fork": (words(20, 5), 2)}
        for name, (prompt, n) in asked.items():
            bench.ask(name, prompt, n=n)
        for name, (prompt, n) in asked.items():
            for index in range(n):
                bench.end(name, index)
                assert bench.front.tokens[name, index] == bench.reference.greedy(prompt, 8)
        assert made[0].replays >= 7
        bench.empty()
    assert made[0]._graphs == {}, "kept past the arena"


@pytest.mark.process
def test_a_stopping_engine_waits_for_what_it_launched(bench: Bench, watch: Watch) -> None:
    """The arena is unmapped only when no step runs any more."""
    bench.ask("long", words(30), max_tokens=300)
    wait_for(lambda: len(bench.front.tokens.get(("long", 0), [])) > 3, "it decodes", 30)
    bench.engine.stop()
    assert bench.end("long").finish == "abort"
    wait_for(lambda: not bench.stats().sessions, "the session has ended", 10)
    assert watch.unfinished() == []
