"""What an engine counts and times of its clients' requests, beside what its kvstore counted of the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engine_loop import running_engine, words

pytestmark = pytest.mark.process


def test_an_engine_s_figures_are_the_kvstore_s(tmp_path: Path) -> None:
    """Prompts, hits and computed tokens agree; each request waits once and has one first token, however many
    continuations, and wherever it began."""
    with running_engine(tmp_path) as bench:
        bench.ask("one", words(40))
        bench.end("one")
        bench.ask("two", words(40), n=2)
        bench.end("two", 1)
        bench.ask("three", words(50, 7), emitted=words(3))
        bench.end("three")
        bench.empty()
        load, stats = bench.engine.load(), bench.stats().counters

    counters = load.counters
    assert (counters["queried_tokens"], counters["hit_tokens"]) == (40 + 40 + 50, 32)
    assert counters["hit_tokens"] == stats["hit_tokens"]
    assert counters["queried_tokens"] + 3 == stats["prompt_tokens"]
    assert [sum(load.times[phase].counts) for phase in ("queue", "prefill")] == [3, 3]
    assert all(0 < load.times[phase].total < 60 for phase in ("queue", "prefill"))
