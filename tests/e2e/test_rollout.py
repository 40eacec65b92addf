"""``quire rollout``: every engine is a new process afterwards, and no stream has noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from quire_services.config.process_table import read_process_table
from tests.chaos.rollout import recomputed, rollout
from tests.support.gateway import write_tokenizer
from tests.support.stack import Stack, running_stack
from tests.support.streams import Streams
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(400)]
TOKENS = 400


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = make_model(tmp_path / "model", vocab=320)
    write_tokenizer(made)
    return made


@pytest.fixture
def three(tmp_path: Path, model: Path) -> Iterator[Stack]:
    with running_stack(tmp_path, model, engines=3) as stack:
        yield stack


def pids(stack: Stack) -> dict[str, int]:
    """The processes of the stack, by name."""
    return {name: entry.pid for name, entry in read_process_table(stack.run_dir).running().items()}


def test_all_engines_are_replaced_under_load(three: Stack) -> None:
    """Three engines under 16 streams: all are new, gateway and kvstore are not, every stream is the same,
    nothing is computed twice, and the supervisor counts no failure."""
    with Streams(three, 16, TOKENS) as streams:
        before = pids(three)
        told = rollout(three, "--json")
    assert (told.returncode, told.stderr) == (0, "")
    said = json.loads(told.stdout)
    after = pids(three)
    engines = [f"engine-{number}" for number in (1, 2, 3)]
    assert said["error"] is None
    assert [one["engine"] for one in said["replaced"]] == engines
    assert [(one["old_pid"], one["new_pid"]) for one in said["replaced"]] == [(before[e], after[e]) for e in engines]
    assert {name for name in before if before[name] != after[name]} == set(engines)
    assert len(streams.done) >= 16
    assert recomputed(three) == 0
    assert three.log.read_text().count("ended with exit code 0; starting it again\n") == 3


def test_a_new_engine_that_does_not_come_up_ends_it(three: Stack, model: Path) -> None:
    """Its reason is said, the engines after it are the old ones and serve; when it can come up it does."""
    before = pids(three)
    weights = model / "model.safetensors"
    weights.rename(model / "aside")
    with Streams(three, 4, TOKENS):
        told = rollout(three)
    assert told.returncode == 1
    assert told.stdout.splitlines()[1].endswith("draining ...")
    assert "the new engine-1 ended with exit code 2" in told.stderr
    assert "model" in told.stderr
    now = pids(three)
    assert [now[e] == before[e] for e in ("engine-2", "engine-3")] == [True, True]
    (model / "aside").rename(weights)
    wait_for(lambda: len(three.ready_sessions()) == 3, "the first is there again", 60)
    assert rollout(three).returncode == 0


def test_a_single_engine_is_replaced_behind_a_spare_one(tmp_path: Path, model: Path) -> None:
    """There is an engine all the time; afterwards the spare one is gone. Without a supervisor nothing is touched."""
    with running_stack(tmp_path, model, "--hold-s=0.1", engines=1) as stack:
        before = pids(stack)
        with Streams(stack, 4, TOKENS):
            told = rollout(stack)
        assert (told.returncode, told.stderr) == (0, told.stderr)
        assert "spare engine: draining" in told.stdout
        assert pids(stack)["engine-1"] != before["engine-1"]
        wait_for(lambda: list(stack.ready_sessions()) == ["engine-1"], "no other engine is there", 10)

        stack.kill_supervisor()
        told = rollout(stack)
        assert (told.returncode, "no supervisor watches" in told.stderr) == (1, True)
        stack.serve()
        stack.says("ready: http", 2)
