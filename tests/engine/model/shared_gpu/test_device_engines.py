"""Whole engines that share the weights of a GPU: real processes, real memory and deaths, the driver recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.gpu.processes.recorded_stack import RecordedStack
from bench.models.tiny import make_model
from tests.support.reference import Reference
from tests.support.repository import ROOT
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]
FIRST, SECOND = ENGINES = ("engine-1", "engine-2")
PROMPT, TOKENS = list(range(10, 40)), 6
VOCAB = 96


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model."""
    return make_model(tmp_path_factory.mktemp("model") / "model", hidden=64, heads=2, kv_heads=1, vocab=VOCAB)


@pytest.fixture(scope="module")
def expected(directory: Path) -> list[int]:
    """What transformers answers."""
    return Reference(directory).greedy(PROMPT, TOKENS)


@pytest.fixture
def stack(request: pytest.FixtureRequest, tmp_path: Path, directory: Path) -> Iterator[RecordedStack]:
    """A kvstore that runs, and engines that are started one after another, ready."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with RecordedStack(tmp_path / "run", directory, 64, request.param) as stack:
            stack.start(*ENGINES)
            yield stack


def written(stack: RecordedStack, name: str) -> list[bool]:
    """Of each life of an engine, whether it wrote the weights that it maps."""
    return [line["written"] for line in stack.events(name, "weights_shared")]


def readers(stack: RecordedStack) -> list[tuple[str, int]]:
    """(state, readers) of all arenas of weights."""
    return [(one.state, one.readers) for one in stack.stats().weights]


def answers(stack: RecordedStack, *engines: str) -> list[list[int]]:
    """What engines say to the prompt."""
    return [stack.ended(stack.gateway.ask(name, PROMPT, TOKENS)).tokens for name in engines or ENGINES]


@pytest.mark.parametrize("stack", ["cuda-vmm-fd"], indirect=True)
def test_engines_share_weights_over_every_death(stack: RecordedStack, expected: list[int]) -> None:
    """One upload for both; an engine that is killed finds them when it starts again; the next kvstore is brought
    them, and has them for engines that start after that; tokens are right all along."""
    assert sorted(written(stack, FIRST) + written(stack, SECOND)) == [False, True]
    assert readers(stack) == [("sealed", 2)]
    assert answers(stack) == [expected] * 2
    before = sum(map(len, (written(stack, name) for name in ENGINES)))
    for name in ENGINES:  # all of them, the writer too
        stack.kill(name)
    wait_for(lambda: readers(stack) == [("idle", 0)], "no process maps them")
    for name in ENGINES:
        stack.start_engine(name)
    stack.wait_ready(*ENGINES)
    assert [life for name in ENGINES for life in written(stack, name)].count(True) == 1
    assert before == 2
    assert readers(stack) == [("sealed", 2)]
    stack.kill_kvstore(*ENGINES)
    wait_for(lambda: readers(stack) == [("sealed", 2)], "both have brought them")
    assert answers(stack) == [expected] * 2
    stack.kill(SECOND)
    stack.start_engine(SECOND)
    stack.wait_ready(SECOND)
    assert written(stack, SECOND)[-1] is False
    assert answers(stack) == [expected] * 2


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["cuda-ipc"], indirect=True)
def test_engines_on_ipc_end_with_their_kvstore(stack: RecordedStack, expected: list[int]) -> None:
    """With exit code 4 and the reason, after they have given back what they worked on; those that are started later
    share anew."""
    assert sorted(written(stack, FIRST) + written(stack, SECOND)) == [False, True]
    assert answers(stack) == [expected] * 2
    stack.kill_kvstore(*ENGINES)  # which insists on the code
    for name in ENGINES:
        assert ["owned the weights is gone" in line["reason"] for line in stack.events(name, "context_poisoned")] == [
            True
        ]
    assert [len(stack.events(name, "kvstore_lost")) for name in ENGINES] == [1, 1]
    assert sorted(written(stack, name)[-1] for name in ENGINES) == [False, True]
    assert readers(stack) == [("sealed", 2)]
    assert answers(stack) == [expected] * 2
