"""An engine whose model has windows in all layers gives back what they have left behind, and says the same tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.kv.attach import arena_of
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_engine.sequences import sequence
from quire_proto.client.client import KVClient
from tests.engine.scheduling.slow_device import WorkerQueue
from tests.support.engine_loop import BLOCKS, Bench, running_engine, words
from tests.support.host_library import need_host_library
from tests.support.waits import wait_for

need_host_library()

pytestmark = pytest.mark.process
WINDOW, SIZE = 40, 16
MODEL: dict[str, Any] = {"family": "mistral", "window": WINDOW}
LONG = 90


class Poisoned(Runner):
    """Before each step all blocks are made useless that no table of the step names; for one request at a time."""

    early = 0  # tokens that the engine takes the window for less than it is

    @property
    def window(self) -> int | None:
        """As if it were that."""
        return WINDOW - self.early

    def launch(self, work: list[Any], copies: list[Any]) -> Any:
        """Poison, and go on."""
        arena = self._backend.arena
        named = [block for item in work for block in item.sequence.table[item.sequence.behind :].tolist()]
        other = torch.ones(arena.shape[3], dtype=torch.bool)
        other[named] = False
        arena[:, :, :, other] = math.nan
        return super().launch(work, copies)


class TooEarly(Poisoned):
    """It gives back one block too early."""

    early = SIZE


class HoldsAll(Runner):
    """As if its model had a layer without a window."""

    window = None


def made(kind: type[Runner], depth: int) -> Callable[[Model, KVClient], Runner]:
    """A maker of runners of a kind, with so many steps in flight."""

    def make(model: Model, client: KVClient) -> Runner:
        return kind(model, CpuAttention(arena_of(client)), WorkerQueue(0.002) if depth > 1 else None)

    return make


@contextmanager
def running(tmp: Path, kind: type[Runner] = Runner, depth: int = 1) -> Iterator[Bench]:
    """An engine with runners of that kind."""
    with running_engine(tmp, made(kind, depth), **MODEL) as bench:
        yield bench


def test_tokens_are_those_of_the_whole(tmp_path: Path) -> None:
    """A sequence many windows long has transformers' tokens though all it has left behind is poisoned, while steps that
    were launched before still run."""
    with running(tmp_path, Poisoned, depth=2) as bench:
        prompt = words(90)
        expected = bench.reference.greedy(prompt, LONG, margin=0)
        bench.ask("long", prompt, max_tokens=LONG)
        bench.end("long")
        assert bench.front.tokens["long", 0] == expected
        assert bench.stats().counters["left_behind"] >= (90 + LONG - WINDOW) // SIZE - 2
        bench.empty()


def test_one_block_too_early_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a block given back too early has other tokens, once what stands in its place can be read at all."""
    monkeypatch.setattr(sequence, "GIVEN_BACK", 0)
    with running(tmp_path, TooEarly) as bench:
        prompt = words(90)
        expected = bench.reference.greedy(prompt, LONG // 2, margin=0)
        bench.ask("long", prompt, max_tokens=LONG // 2)
        wait_for(lambda: bench.front.ends.get(("long", 0)) or not bench.engine.load().ready, "it ends, somehow", 30)
        assert bench.front.tokens.get(("long", 0), []) != expected


def several(bench: Bench) -> dict[tuple[str, int], list[int]]:
    """Prompts alike and apart, samples and a beam search, more than the pool holds of them in full."""
    same = words(70)
    for i in range(3):
        bench.ask(f"alone-{i}", words(60 + i, 7 * i), max_tokens=80)
    bench.ask("shared-1", same + words(9, 3), max_tokens=60)
    bench.ask("shared-2", same + words(9, 5), max_tokens=60)
    bench.ask("samples", same, n=3, max_tokens=50, temperature=1.0, seed=5)
    for name, count in [*((f"alone-{i}", 1) for i in range(3)), ("shared-1", 1), ("shared-2", 1), ("samples", 3)]:
        for index in range(count):
            assert bench.end(name, index).finish == "length"
    bench.ask("beams", words(100, 11), beam_width=3, n=1, max_tokens=20)
    assert bench.end("beams").finish == "length"
    bench.empty()
    return dict(bench.front.tokens)


def test_forks_sharing_and_preemption_change_no_token(tmp_path: Path) -> None:
    """Beside an engine that holds all: the same tokens of samples, beams and shared prompts, and nothing is preempted
    where that one has to. What was given back is cached: a prompt that was answered before is a hit."""
    with running(tmp_path / "all", HoldsAll) as bench:
        expected, preempted = several(bench), bench.engine._scheduler.preemptions
        assert bench.stats().counters["left_behind"] == 0
    with running(tmp_path / "window") as bench:
        assert several(bench) == expected
        assert bench.stats().counters["left_behind"] > BLOCKS
        assert bench.engine._scheduler.preemptions < preempted
        for name in ("once", "again"):
            bench.ask(name, words(200, 5), max_tokens=8)
            bench.end(name)
        assert bench.front.tokens["again", 0] == bench.front.tokens["once", 0]
        assert bench.front.firsts["again", 0].cached_tokens == 192
