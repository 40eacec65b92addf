"""Processes that are forked and not executed: nobody can tell, and a fork server that fails costs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quire_services.config.process_table import ProcessEntry, read_process_table
from quire_services.stack.child import Child
from quire_services.stack.forks import client
from quire_services.stack.forks.client import EngineForkServer
from quire_services.stack.forks.forked_process import ForkedProcess
from quire_services.stack.rundir import RunDir, RunDirError
from tests.support.repository import child_environ
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
PROGRAM = "tests.support.forked_program"
SUPERVISES = """
import os, sys
from pathlib import Path
from quire_services.stack.child import Child
from quire_services.stack.forks.client import EngineForkServer
from quire_services.stack.rundir import RunDir
run_dir = RunDir(Path(sys.argv[1]))
forks = EngineForkServer([sys.argv[2]], run_dir.lock, {})
forks.start()
while not forks.settled:
    pass
print(forks.child.pid, flush=True)
for number in range(8):
    argv = [sys.executable, "-P", "-m", sys.argv[2], f"{sys.argv[1]}/../told-{number}", "sleep"]
    Child(f"engine-{number}", argv, table=run_dir.table, fork=forks.fork).start()
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    made = RunDir(tmp_path / "run")
    yield made
    for entry in read_process_table(tmp_path / "run").running().values():
        os.kill(entry.pid, signal.SIGKILL)
    made.close()


@pytest.fixture
def forks(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineForkServer]:
    """A server that is ready."""
    for name, value in child_environ().items():
        monkeypatch.setenv(name, value)
    server = EngineForkServer([PROGRAM], run_dir.lock, {})
    server.start()
    wait_for(lambda: server.settled, "it has imported everything")
    yield server
    server.close()


Make = Callable[..., Child]


@pytest.fixture
def engine(run_dir: RunDir, forks: EngineForkServer, tmp_path: Path) -> Make:
    def make(name: str = "engine-1", ending: str = "sleep", fork: Any = forks.fork, **more: Any) -> Child:
        argv = [sys.executable, "-P", "-m", PROGRAM, str(tmp_path / f"{name}.json"), ending]
        return Child(name, argv, table=run_dir.table, fork=fork, defaults={"OF_ITS_OWN": "1"}, **more)

    return make


def told(child: Child) -> dict[str, Any]:
    """What it has found."""
    file = Path(child.argv[-2])
    wait_for(file.exists, "it has told")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def ended(child: Child) -> int | None:
    """Kill it, and wait."""
    child.signal(signal.SIGKILL)
    wait_for(lambda: child.reap() is not None or child.process is None, "it has ended")
    return child.code


def test_a_forked_process_is_what_an_executed_one_is(engine: Make, run_dir: RunDir) -> None:
    """Arguments, environment, open files, parent, group, signals; and it is entered in the table as it runs."""
    forked, executed = engine("engine-1"), engine("engine-2", fork=None)
    forked.start(), executed.start()
    assert isinstance(forked.process, ForkedProcess)
    assert isinstance(executed.process, subprocess.Popen)

    names = json.dumps(told(forked)).replace("engine-1", "engine-2")
    assert json.loads(names) == told(executed)
    assert told(forked)["parent"] == os.getpid()
    found = read_process_table(run_dir.path).running()
    assert [found[name].pid for name in ("engine-1", "engine-2")] == [forked.pid, executed.pid]
    assert [ended(child) for child in (forked, executed)] == [-signal.SIGKILL] * 2
    assert read_process_table(run_dir.path).running() == {}


@pytest.mark.parametrize("code", [0, 3])
def test_its_exit_code_and_its_reason_are_known(engine: Make, code: int) -> None:
    """As of any child."""
    child = engine(ending=str(code))
    child.start()
    wait_for(lambda: child.reap() is not None, "it has ended")
    assert (child.code, child.reason, child.process) == (code, "that is all", None)


def test_the_next_supervisor_adopts_it(engine: Make, run_dir: RunDir) -> None:
    """By the table alone, with the place where it says why it ends."""
    child = engine()
    child.start()
    told(child)
    child.let_go()
    table = read_process_table(run_dir.path)
    again = Child("engine-1", child.argv, table=table)
    assert again.adopt(table.processes["engine-1"])
    again.signal(signal.SIGKILL)
    wait_for(lambda: again.reap() is not None, "it has ended")
    assert again.reason == "that is all"


@pytest.mark.parametrize("fault", ["killed", "stopped", "changed"])
def test_a_server_that_fails_costs_nothing(
    engine: Make, forks: EngineForkServer, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The process is executed instead, once; the server is started anew, and the next one is forked."""
    monkeypatch.setattr(client, "FORK_S", 0.3)
    assert forks.child.process
    if fault == "killed":
        forks.child.process.kill()
        wait_for(lambda: not psutil.Process(forks.child.pid).is_running() or _is_zombie(forks.child.pid), "it is dead")
    elif fault == "stopped":
        os.kill(forks.child.pid, signal.SIGSTOP)
    else:
        file = Path(__file__).parents[3] / "support" / "forked_program.py"
        os.utime(file)
    first = engine()
    first.start()
    assert isinstance(first.process, subprocess.Popen)
    told(first)

    monkeypatch.setattr(client, "FORK_S", 5.0)
    second = engine("engine-2", fork=None)
    for _ in range(3):
        wait_for(lambda: forks.child.reap() is not None or forks.settled, "the server is dead, or ready")
        second = engine("engine-2")
        second.start()
        if isinstance(second.process, ForkedProcess):
            break
        ended(second)
    assert isinstance(second.process, ForkedProcess)
    assert set(read_process_table(run_dir.path).running()) == {"engine-1", "engine-2"}
    assert len(_running(str(run_dir.path.parent))) == 2
    ended(first), ended(second)


def test_a_server_that_never_is_ready_is_not_waited_for(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of its imports, it holds up a start for so long and no longer."""
    monkeypatch.setattr(client, "IMPORTS_S", 0.5)
    server = EngineForkServer(["time"], run_dir.lock, {})
    server.start()
    os.kill(server.child.pid, signal.SIGSTOP)
    assert not server.settled
    wait_for(lambda: server.settled, "it is given up")
    entry = ProcessEntry(argv=[sys.executable, "-m", PROGRAM], reason_fd=0)
    assert server.fork("engine-1", run_dir.path, entry, os.environ) is None
    server.close()


def _is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _running(words: str) -> list[int]:
    """Processes of the program whose command line has these words."""
    found = []
    for process in psutil.process_iter():
        try:
            if PROGRAM in (line := process.cmdline()) and words in " ".join(line):
                found.append(process.pid)
        except psutil.NoSuchProcess:
            pass
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_supervisor_that_is_killed_meanwhile_leaves_no_gap(tmp_path: Path, seed: int) -> None:
    """Whoever gets its lock finds every process in the table; the server is gone."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISES, str(tmp_path / "run"), PROGRAM],
        stdout=subprocess.PIPE,
        env=child_environ(),
    )
    assert supervisor.stdout
    with supervisor:
        server = psutil.Process(int(supervisor.stdout.readline()))
        time.sleep(random.Random(seed).random() * 0.15)
        supervisor.kill()
    locked: list[RunDir] = []

    def lock() -> bool:
        try:
            locked.append(RunDir(tmp_path / "run"))
        except RunDirError:
            return False
        return True

    wait_for(lock, "its lock is free")
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    entered = {entry.pid for entry in locked[0].found.values()}
    assert set(_running(str(tmp_path))) == entered
    for pid in entered:
        os.kill(pid, signal.SIGKILL)
    locked[0].close()
