"""What outlives a supervisor that is killed, and how the next one tells it from anything else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from quire_kvstore.host.attach_socket import start_ticks
from quire_services.config.process_table import (
    PROCESSES_FILE,
    ProcessEntry,
    ProcessTable,
    is_process_table,
    read_process_table,
)
from quire_services.config.settings import Config, EngineSettings, KvstoreSettings, ServeSettings, Tenant
from quire_services.stack.child import Child
from quire_services.stack.processes import Stack
from quire_services.stack.rundir import RunDir
from quire_services.stack.supervisor import Supervisor
from quire_services.stack.words.causes import UNKNOWN_CODE
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
SLEEP = "import time; time.sleep(600)"
LOGS = (
    "import time\nfrom pathlib import Path\nimport structlog\nfrom quire_services.process import logs, reason\n"
    "logs.configure('child', form='json')\nPath('configured').touch()\n"
    "while not Path('go').exists():\n    time.sleep(0.01)\n"
    "for _ in range(2000):\n    structlog.get_logger().info('line', text='x' * 100)\n"
    "reason.report_reason('logged all')\nPath('logged').touch()\ntime.sleep(600)\n"
)
SUPERVISES = """
import sys
from pathlib import Path
from quire_services.stack.child import Child
from quire_services.stack.rundir import RunDir
from quire_services.stack.supervisor import Supervisor
run_dir = RunDir(Path(sys.argv[1]))
with Supervisor(lambda *_: None) as supervisor:
    for number, code in enumerate(sys.argv[2:], 1):
        argv = [sys.executable, "-c", code]
        supervisor.start(Child(f"engine-{number}", argv, settings="as then", table=run_dir.table))
    print("started", flush=True)
    supervisor.pump(600)
"""


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """What outlives its supervisor would outlive a test that fails, too."""
    yield
    for entry in read_process_table(tmp_path / "run").running().values():
        os.kill(entry.pid, signal.SIGKILL)


def killed_supervisor(run_dir: Path, *programs: str) -> subprocess.Popen[bytes]:
    """Start these programs under a supervisor, which is then killed; its logs are a pipe to here."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISES, str(run_dir), *programs],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=run_dir.parent,
    )
    assert supervisor.stdout
    assert supervisor.stdout.readline() == b"started\n"
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    return supervisor


@contextmanager
def taken_over(run_dir: RunDir) -> Iterator[tuple[Supervisor, dict[str, Child]]]:
    """A supervisor with what the last one has left; at the end nothing runs."""
    with Supervisor(lambda *_: None) as supervisor:
        children = {name: Child(name, entry.argv, table=run_dir.table) for name, entry in run_dir.found.items()}
        for name, child in children.items():
            assert child.adopt(run_dir.found[name])
            supervisor.watch(child)
        yield supervisor, children
    assert not any(entry.runs() for entry in run_dir.table.processes.values())
    run_dir.close()


def runs(pid: int) -> bool:
    """Whether there is such a process, and not just its exit code."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_outlives_its_supervisor_is_found_watched_and_stopped(tmp_path: Path) -> None:
    """Two processes run on; the next supervisor finds both, starts the one again that dies, and ends both."""
    dead = killed_supervisor(tmp_path / "run", SLEEP, SLEEP)
    assert dead.stderr
    dead.stderr.close()
    run_dir = RunDir(tmp_path / "run")
    assert {entry.settings for entry in run_dir.found.values()} == {"as then"}
    with taken_over(run_dir) as (supervisor, children):
        first, second = (children[name] for name in ("engine-1", "engine-2"))
        before = first.pid
        assert all(child.inherited and child.outdated and runs(child.pid) for child in (first, second))

        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: first.pid not in (0, before), "it runs again", meanwhile=partial(supervisor.pump, 0.05))
        assert (first.code, first.inherited, first.starts) == (UNKNOWN_CODE, False, 2)
        assert read_process_table(run_dir.path).running().keys() == {"engine-1", "engine-2"}
        assert supervisor.stop([[first], [second]], 10) == []
        assert (first.code, second.code) == (-signal.SIGTERM, UNKNOWN_CODE)


def test_logs_of_what_outlives_its_supervisor_end_nothing(tmp_path: Path) -> None:
    """The pipe that it logs to has no reader any more: it neither dies nor waits, and its reason is still heard."""
    dead = killed_supervisor(tmp_path / "run", LOGS)
    assert dead.stderr
    dead.stderr.close()
    (tmp_path / "go").touch()
    wait_for((tmp_path / "logged").exists, "it has logged 200 KB")
    with taken_over(RunDir(tmp_path / "run")) as (supervisor, children):
        child = children["engine-1"]
        child.ask_to_end()
        wait_for(lambda: child.starts == 2, "it is started again", meanwhile=partial(supervisor.pump, 0.05))
        assert child.reason == "logged all"


def test_logs_go_on_where_the_next_supervisor_logs(tmp_path: Path) -> None:
    """Its stderr is handed over to what it takes over; a process that knows nothing of that logs where it did."""
    dead = killed_supervisor(tmp_path / "run", LOGS, SLEEP)
    assert dead.stderr
    dead.stderr.close()
    wait_for((tmp_path / "configured").exists, "it knows where it logs")
    code = (
        "import sys\nfrom pathlib import Path\nfrom quire_services.config.process_table import read_process_table\n"
        "from quire_services.process.log_handover import hand_over_stderr\n"
        "from quire_services.stack.foreign_process import ForeignProcess\n"
        "found = read_process_table(Path(sys.argv[1])).running()\n"
        "tell = [ForeignProcess(found[name]).send_signal for name in ('engine-2', 'engine-1')]\n"
        "print(hand_over_stderr(Path(sys.argv[1], 'logs.sock'), tell))\n"
    )
    with (tmp_path / "log").open("wb") as log:
        told = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=log, timeout=30
        )
    assert told.stdout == b"1\n"
    (tmp_path / "go").touch()
    wait_for((tmp_path / "logged").exists, "it has logged")
    assert len((tmp_path / "log").read_text().splitlines()) == 2000
    with taken_over(RunDir(tmp_path / "run")) as (supervisor, _):
        supervisor.stop([supervisor.children], 10)


def test_what_is_not_in_the_table_dies_with_the_supervisor(tmp_path: Path) -> None:
    """A process that could not be entered, as on a full disk, is no orphan that nobody knows."""
    code = SUPERVISES.replace("run_dir.table))", "run_dir.table))\n        run_dir.table.run_dir = Path('/proc')")
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run"), SLEEP, SLEEP], stdout=subprocess.PIPE
    )
    assert supervisor.stdout
    supervisor.stdout.readline()
    children = psutil.Process(supervisor.pid).children()
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    wait_for(lambda: sum(runs(child.pid) for child in children) == 1, "the one without an entry is gone")
    assert list(RunDir(tmp_path / "run").found) == ["engine-1"]


@pytest.mark.parametrize("stale", ["start time", "command line", "boot", "pid namespace", "ended"])
def test_an_entry_names_one_process_and_no_other(tmp_path: Path, stale: str) -> None:
    """A process that has got the pid of an old entry is neither taken over nor ended."""
    argv = [sys.executable, "-c", SLEEP]
    process = subprocess.Popen(argv)
    wait_for(lambda: SLEEP.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes(), "it is the program")
    entry = ProcessEntry(process.pid, start_ticks(process.pid), argv)
    old = {
        "start time": replace(entry, ticks=entry.ticks - 1),
        "command line": replace(entry, argv=[*argv, "--name=engine-1"]),
    }.get(stale, entry)
    ProcessTable(tmp_path, processes={"engine-1": old}).save()
    file = tmp_path / PROCESSES_FILE
    written = json.loads(file.read_text())
    if stale in ("boot", "pid namespace"):
        file.write_text(json.dumps(written | ({"machine": "another"} if stale == "boot" else {"pid_namespace": 1})))
    elif stale == "ended":  # and not reaped
        assert read_process_table(tmp_path).running()
        process.kill()
        wait_for(lambda: not runs(process.pid), "it has ended")
    assert is_process_table(file)
    assert read_process_table(tmp_path).running() == {}
    assert Child("engine-1", argv).adopt(old) is (stale in ("boot", "pid namespace"))
    process.kill()
    process.wait()


def test_settings_tell_what_is_to_be_replaced(tmp_path: Path) -> None:
    """A setting of the engines changes engines alone, groups and what was prepared the kvstore alone, the model all."""
    model, run_dir = tmp_path / "model", tmp_path / "run"
    for folder in (model, run_dir):
        folder.mkdir()

    def settings(config: Config, prepared: str = "{}") -> list[str]:
        (run_dir / "prepared.json").write_text(prepared)
        stack = Stack(replace(config, serve=replace(config.serve, model=str(model))), run_dir, "instance")
        stack.read_prepared()
        return [child.settings for child in (stack.kvstore, stack.gateway, stack.engines[0])]

    plain = Config(serve=ServeSettings(engines=2), engine=EngineSettings(threads=1))

    def changed(config: Config, prepared: str = "{}") -> list[bool]:
        return [one != other for one, other in zip(settings(plain), settings(config, prepared), strict=True)]

    assert changed(plain) == [False, False, False]
    assert changed(replace(plain, serve=ServeSettings(engines=3))) == [False, False, False]
    assert changed(replace(plain, engine=EngineSettings(threads=2))) == [False, False, True]
    assert changed(replace(plain, kvstore=KvstoreSettings(blocks=8))) == [True, False, False]
    assert changed(replace(plain, tenants=(Tenant("a", ("key",), ("g",)),))) == [True, False, False]
    assert changed(plain, '{"published": []}') == [True, False, False]
    before = settings(plain)
    (model / "model.safetensors").write_bytes(b"weights")
    assert all(one != other for one, other in zip(before, settings(plain), strict=True))
