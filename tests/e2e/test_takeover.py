"""A stack outlives its supervisor, and the next one takes it over: streams notice nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from quire_services.config.process_table import read_process_table
from tests.support.gateway import write_tokenizer
from tests.support.stack import Stack, running_stack
from tests.support.streams import Streams
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(400)]
QUIRE = [sys.executable, "-m", "quire_services.cli"]
TOKENS = 400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_model(tmp_path_factory.mktemp("takeover") / "model", vocab=320)
    write_tokenizer(made)
    return made


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("takeover"), model, "--hold-s=60") as it:
        yield it


def pids(stack: Stack) -> dict[str, int]:
    """The processes of the stack, by name."""
    return {name: entry.pid for name, entry in read_process_table(stack.run_dir).running().items()}


def quire(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one subcommand to its end."""
    return subprocess.run([*QUIRE, *arguments], capture_output=True, text=True, timeout=120)


def take_over(stack: Stack, *flags: str) -> None:
    """Kill the supervisor and start another."""
    ready = stack.log.read_text().count("ready: http")
    stack.kill_supervisor()
    stack.serve(*flags)
    stack.says("ready: http", ready + 1)


def test_streams_go_on_without_a_supervisor_and_under_the_next(stack: Stack) -> None:
    """Nothing ends with it, ``quire status`` says so, the next one keeps every process and heals the engine that dies
    then; meanwhile a third one is refused."""
    with Streams(stack, 4, TOKENS):
        before = pids(stack)
        stack.kill_supervisor()
        told = quire("status", f"--run-dir={stack.run_dir}")
        assert told.returncode == 0
        assert "no supervisor watches" in told.stdout
        assert pids(stack) == before

        stack.serve()
        stack.says("ready: http", 2)
        assert pids(stack) == before
        watches = json.loads(quire("status", "--json", f"--run-dir={stack.run_dir}").stdout)["supervisor"]
        assert watches == {"pid": stack.process.pid, "runs": True}
        third = quire(*stack.command[3:])
        assert (third.returncode, "another stack" in third.stderr) == (2, True)

        os.kill(before["engine-1"], signal.SIGKILL)
        wait_for(lambda: stack.ready_sessions().get("engine-1", 0) not in (0, before["engine-1"]), "it is back", 60)
        assert {name for name, pid in pids(stack).items() if before[name] != pid} == {"engine-1"}


def test_what_died_meanwhile_is_started_again(stack: Stack) -> None:
    """An engine that died while no supervisor watched comes back with the next one."""
    before = pids(stack)
    stack.kill_supervisor()
    os.kill(before["engine-2"], signal.SIGKILL)
    stack.serve()
    wait_for(lambda: stack.ready_sessions().get("engine-2", 0) not in (0, before["engine-2"]), "it is back", 60)
    assert {name for name, pid in pids(stack).items() if before[name] != pid} == {"engine-2"}
    stack.says("ready: http", 3)


def test_engines_with_other_settings_are_replaced_one_at_a_time(stack: Stack) -> None:
    """New settings of engines: each is replaced while the other serves, gateway and kvstore stay."""
    with Streams(stack, 4, TOKENS):
        before = pids(stack)
        take_over(stack, "--max-sequences=32")
        stack.says("settings have changed: replacing it", 2)
        engines = {"engine-1", "engine-2"}
        wait_for(lambda: engines <= {n for n, pid in pids(stack).items() if pid != before[n]}, "both are new", 60)
        wait_for(lambda: len(stack.ready_sessions()) == 2, "both serve", 60)
        after = pids(stack)
        assert (after["gateway"], after["kvstore"]) == (before["gateway"], before["kvstore"])


def test_fewer_engines_are_asked_for(stack: Stack) -> None:
    """The one too many is stopped, and its streams go on in the other; then it is back."""
    with Streams(stack, 4, TOKENS):
        before = pids(stack)
        take_over(stack, "--max-sequences=32", "--engines=1")
        wait_for(lambda: "engine-2" not in pids(stack), "it is stopped", 60)
        assert pids(stack) == {name: pid for name, pid in before.items() if name != "engine-2"}
    take_over(stack, "--max-sequences=32")
    wait_for(lambda: len(stack.ready_sessions()) == 2, "both serve", 60)


def test_what_cannot_be_started_changes_nothing(stack: Stack, tmp_path: Path) -> None:
    """A supervisor that is asked for a prompt that is not there says so and leaves what runs as it was."""
    before = pids(stack)
    stack.kill_supervisor()
    (tmp_path / "quire.toml").write_text('[[published]]\nfile = "gone.txt"\n')
    told = quire(*stack.command[3:], f"--config={tmp_path / 'quire.toml'}")
    assert (told.returncode, "gone.txt" in told.stderr) == (1, True)
    assert "nothing was changed" in told.stdout
    assert pids(stack) == before
    assert stack.health() == 200
    take_over(stack, "--max-sequences=32")
    assert pids(stack) == before


def test_another_pool_replaces_everything(stack: Stack) -> None:
    """With other blocks nothing of before can go on: all processes are new."""
    before = pids(stack)
    take_over(stack, "--blocks=512")
    after = pids(stack)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert stack.stats().num_blocks == 512


@pytest.mark.parametrize("supervised", [True, False])
def test_stop_leaves_nothing(tmp_path: Path, model: Path, supervised: bool) -> None:
    """``quire stop`` ends a stack with a supervisor and one without: no process, segment or file is left."""
    with running_stack(tmp_path, model, engines=1) as stack:
        stack.stats()
        processes = stack.processes()
        if not supervised:
            stack.kill_supervisor()
        told = quire("stop", f"--run-dir={stack.run_dir}")
        assert told.returncode == 0, told.stderr
        assert stack.process.wait(10) == (0 if supervised else -signal.SIGKILL)
        wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in processes), "all have ended", 5)
        assert not stack.run_dir.exists()
        assert not any(Path("/dev/shm", name).exists() for name in stack.segments)
        again = quire("stop", f"--run-dir={stack.run_dir}")
        assert (again.returncode, "no stack" in again.stderr) == (1, True)
        stack.serve()  # the directory is free for another stack
        stack.says("ready: http", 2)
