"""The supervisor: starts again what dies, stops in order, and takes nothing with it into the next life."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from quire_services.stack.child import Child
from quire_services.stack.rundir import RunDir, RunDirError
from quire_services.stack.supervisor import Supervisor
from tests.support.waits import wait_for

SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
pytestmark = pytest.mark.process


def python(code: str, name: str = "child") -> Child:
    """A child that runs a line of Python."""
    return Child(name, [sys.executable, "-c", code])


def test_a_killed_child_is_started_again_with_growing_delay() -> None:
    """Each death in quick succession doubles the delay; a child gets a new pid."""
    delays: list[float] = []
    with Supervisor(lambda *ended: delays.append(ended[2])) as supervisor:
        child = supervisor.start(python(SLEEP))
        for deaths in (1, 2, 3):
            wait_for(lambda: child.pid, "the child runs", meanwhile=partial(supervisor.pump, 0.05))
            os.kill(child.pid, signal.SIGKILL)
            wait_for(
                lambda deaths=deaths: len(delays) == deaths,
                "the death is noticed",
                meanwhile=partial(supervisor.pump, 0.05),
            )
        wait_for(lambda: child.pid, "the child runs again", meanwhile=partial(supervisor.pump, 0.05))

        assert delays == [0.1, 0.2, 0.4]
        assert child.starts == 4
        supervisor.stop([[child]], 5)


def test_a_process_with_an_end_is_not_started_again() -> None:
    """A child that is not kept just leaves its exit code."""
    with Supervisor(lambda *_: pytest.fail("it is not to be kept")) as supervisor:
        child = supervisor.start(Child("once", [sys.executable, "-c", "raise SystemExit(3)"], keep=False))
        wait_for(lambda: child.code is not None, "the child has ended", meanwhile=partial(supervisor.pump, 0.05))

        assert (child.code, child.pid, child.due) == (3, 0, None)


@pytest.mark.parametrize("ours", [None, "5"])
def test_environment_of_a_child_is_ours_before_its_defaults(ours: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default counts only where the variable is not set."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if ours:
        monkeypatch.setenv("GOMP_SPINCOUNT", ours)
    code = "import os; raise SystemExit(int(os.environ['GOMP_SPINCOUNT']))"
    with Supervisor(lambda *_: pytest.fail("it is not to be kept")) as supervisor:
        child = supervisor.start(Child("e", [sys.executable, "-c", code], keep=False, defaults={"GOMP_SPINCOUNT": "7"}))
        wait_for(lambda: child.code is not None, "the child has ended", meanwhile=partial(supervisor.pump, 0.05))

        assert child.code == int(ours or 7)


def test_stopping_follows_the_order_and_kills_after_the_deadline() -> None:
    """Groups end one after the other; a child that ignores SIGTERM is killed and named."""
    with Supervisor(lambda *_: None) as supervisor:
        first = supervisor.start(Child("first", [sys.executable, "-c", STUBBORN]))
        second = supervisor.start(python(SLEEP, "second"))
        wait_for(lambda: "15" in _ignored(first.pid), "the first child ignores SIGTERM")
        killed = supervisor.stop([[first], [second]], 0.3)

        assert killed == ["first"]
        assert (first.code, second.code) == (-signal.SIGKILL, -signal.SIGTERM)


@pytest.mark.parametrize("setting", ["--drain-s=1.5", "--leave-s=1.5"])
def test_settings_give_a_child_time_to_end(setting: str) -> None:
    """One that may take longer than others to end is not killed meanwhile, whether it is stopped or ended alone."""
    slow = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(1), sys.exit(0))); time.sleep(600)"
    with Supervisor(lambda *_: None) as supervisor:
        children = [Child(name, [sys.executable, "-c", slow, setting]) for name in ("first", "second")]
        for child in children:
            supervisor.start(child)
            wait_for(lambda child=child: "15" in _signals(child.pid, "SigCgt"), "it has a handler")
        assert supervisor.end(children[:1], 0.2) == []
        assert supervisor.stop([children[1:]], 0.2) == []
    assert [child.code for child in children] == [0, 0]


def _ignored(pid: int) -> list[str]:
    return _signals(pid, "SigIgn")


def _signals(pid: int, of: str) -> list[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith(of))[7:], 16)
    return [str(signum) for signum in range(1, 32) if mask >> (signum - 1) & 1]


def test_a_second_signal_skips_the_deadline() -> None:
    """While a child is being waited for, another signal kills it at once."""
    with Supervisor(lambda *_: None) as supervisor:
        child = supervisor.start(Child("stubborn", [sys.executable, "-c", STUBBORN]))
        wait_for(lambda: "15" in _ignored(child.pid), "the child ignores SIGTERM")
        began = time.monotonic()
        helper = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -INT {os.getpid()}"])
        killed = supervisor.stop([[child]], 60)
        helper.wait()

    assert killed == ["stubborn"]
    assert time.monotonic() - began < 20


def test_nothing_survives_a_killed_supervisor() -> None:
    """kill -9 of the process that supervises ends all its children."""
    code = (
        "import sys\nfrom quire_services.stack.child import Child\n"
        "from quire_services.stack.supervisor import Supervisor\n"
        "with Supervisor(lambda *_: None) as s:\n"
        f"    children = [s.start(Child(str(i), [sys.executable, '-c', {SLEEP!r}])) for i in range(2)]\n"
        "    print(*(c.pid for c in children), flush=True)\n    s.pump(600)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout
    pids = [int(word) for word in supervisor.stdout.readline().split()]
    assert len(pids) == 2
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()

    wait_for(lambda: not any(_runs(pid) for pid in pids), "all children are gone")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_live_run_directory_is_refused_and_a_dead_one_cleaned(tmp_path: Path) -> None:
    """The lock decides: a second stack is refused by name, leftovers of a dead one go, what is not ours stays."""
    path = tmp_path / "run"
    first = RunDir(path)
    with pytest.raises(RunDirError, match=f"another stack .pid {os.getpid()}. runs in"):
        RunDir(path)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path / "kvstore.sock"))
    (path / "notes").touch()
    os.close(first._fd)  # as when the process that held it is killed
    second = RunDir(path)

    assert second.stale == ["kvstore.sock"]
    assert second.close() == ["notes"]
    assert [entry.name for entry in path.iterdir()] == ["notes"]


def test_a_run_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    """A directory with content and open to others is not taken over; an empty one is closed to them."""
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    RunDir(path).close()
    path.chmod(0o755)
    (path / "notes").touch()

    with pytest.raises(RunDirError, match="0700"):
        RunDir(path)
