"""The engine loop against a real kvstore process; the gateway's place is taken by a queue on either side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quire_proto.gateway_link import Abort, Output
from quire_proto.wire.u32 import pack_u32
from tests.support.engine_loop import BLOCKS, VOCAB, Bench, running_engine, words
from tests.support.waits import wait_for


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running_engine(tmp_path_factory.mktemp("engine")) as started:
        yield started


@pytest.mark.process
def test_greedy_tokens_equal_generate(bench: Bench) -> None:
    """A prompt across chunk and block edges gives the tokens of ``generate``, cold and from the cache; what is
    cached is said before anything is computed."""
    prompt = words(150)
    for name, cached in (("cold", 0), ("warm", 144)):
        bench.ask(name, prompt)
        assert bench.end(name).cached_tokens == cached
        assert bench.front.firsts[name, 0] == Output(name, 0, cached_tokens=cached)
        assert bench.front.tokens[name, 0] == bench.reference.greedy(prompt, 8)
    bench.empty()


@pytest.mark.process
@pytest.mark.parametrize(
    ("prompt", "n", "code"),
    [([], 1, "invalid"), ([VOCAB], 1, "invalid"), (words(39 * 16), 1, "too_long"), (words(4), 1025, "invalid")],
)
def test_what_can_never_run_is_refused(bench: Bench, prompt: list[int], n: int, code: str) -> None:
    """An empty prompt, an unknown token, a prompt larger than the pool and too many continuations end with an error."""
    name = f"refused-{len(prompt)}-{n}-{prompt[:1]}"
    bench.ask(name, prompt, n=n)
    assert [bench.end(name, i).code for i in range(n)] == [code] * n


@pytest.mark.process
def test_a_sequence_ends_where_the_pool_does(bench: Bench) -> None:
    """A sequence that outgrows the whole pool ends with ``length`` instead of waiting for ever."""
    bench.ask("large", words(500), max_tokens=2000)
    assert bench.end("large").finish == "length"
    assert len(bench.front.tokens["large", 0]) == (BLOCKS - 1) * 16 - 500
    bench.empty()


@pytest.mark.process
def test_stop_tokens_end_a_sequence_unless_too_early(bench: Bench) -> None:
    """A stop token ends the continuation, and is not chosen before min_tokens."""
    prompt = words(20, 5)
    stop = bench.reference.greedy(prompt, 4)[3]
    bench.ask("stop", prompt, stop_token_ids=pack_u32([stop]))
    assert bench.end("stop").finish == "stop"
    assert bench.front.tokens["stop", 0] == bench.reference.greedy(prompt, 4)
    bench.ask("later", prompt, stop_token_ids=pack_u32([stop]), min_tokens=6)
    bench.end("later")
    assert stop not in bench.front.tokens["later", 0][:6]


@pytest.mark.process
def test_aborts_before_and_after_the_fork(bench: Bench) -> None:
    """Aborting one of three continuations, before or after the fork, ends that one and no other."""
    before = bench.stats().counters["forks"]
    bench.ask("early", words(40, 9), n=3, temperature=1.0, max_tokens=30)
    bench.front.inbox.put(Abort("early", 0, every=False))
    for index in (1, 2):
        assert bench.end("early", index).finish == "length"
    assert bench.stats().counters["forks"] == before + 1
    bench.ask("late", words(40, 11), n=3, temperature=1.0, max_tokens=200)
    wait_for(lambda: len(bench.front.tokens.get(("late", 2), [])) > 2, "the request has forked", 30)
    bench.front.inbox.put(Abort("late", 1, every=False))
    wait_for(lambda: bench.engine.load().running == 2, "one continuation is gone", 30)
    bench.front.inbox.put(Abort("late"))
    bench.empty()


@pytest.mark.process
def test_a_pool_too_small_for_all_preempts_and_stays_right(bench: Bench) -> None:
    """Eight sequences that need twice the pool are preempted and recomputed; the tokens stay those of ``generate``."""
    prompts = {f"small-{i}": words(50 + 5 * i, 7 * i) for i in range(8)}
    for name, prompt in prompts.items():
        bench.ask(name, prompt, max_tokens=70)
    for name, prompt in prompts.items():
        bench.end(name)
        assert bench.front.tokens[name, 0] == bench.reference.greedy(prompt, 70)
    assert bench.engine.load().counters["preemptions"] > 0
    bench.empty()


@pytest.mark.process
def test_one_message_a_step_at_most(bench: Bench) -> None:
    """The engine never sent more messages than it took steps."""
    counters = bench.engine.load().counters
    assert 0 < counters["messages"] <= counters["steps"]


def test_a_salted_request_goes_on_elsewhere_under_its_salt(bench: Bench) -> None:
    """Sent again with what it had emitted, it hits all its own blocks, and one of another salt or of none hits none."""
    prompt = [9 + i * 7 % 200 for i in range(32)]
    bench.ask("salted", prompt, max_tokens=20, salt="pepper")
    bench.end("salted")
    emitted = bench.front.tokens["salted", 0][:18]
    for name, salt, found in (("again", "pepper", 48), ("other", "paprika", 0), ("plain", "", 0)):
        bench.ask(name, prompt, max_tokens=20, salt=salt, emitted=emitted)
        bench.end(name)
        assert bench.front.tokens[name, 0] == bench.front.tokens["salted", 0][18:]
        assert bench.front.firsts[name, 0].cached_tokens == found
    bench.empty()
