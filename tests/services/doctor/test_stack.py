"""`quire doctor` beside real processes: a kvstore and its clients, stopped, killed, full, and of another version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import quire_proto
from quire_kvstore.host.attach_socket import start_ticks
from quire_services.config.process_table import ProcessEntry, ProcessTable
from quire_services.doctor.checks.answers import check_gateway, check_kvstore
from quire_services.doctor.checks.memory import check_memory
from quire_services.doctor.checks.ports import check_ports_free
from quire_services.doctor.checks.processes import check_processes
from quire_services.doctor.checks.run_directory import check_run_directory
from quire_services.doctor.scene import process_state
from tests.support.children import holding_client
from tests.support.doctor import AS_ROOT, found, ids, only
from tests.support.gateway import GatewayProcess, write_tokenizer
from tests.support.kvstore import PROGRAM, Kvstore
from tests.support.service import LAYOUT
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
OF_ANOTHER_VERSION = (
    "import quire_proto, sys; quire_proto.__version__ = '9.9'; from quire_services.daemons.kvstored import main;"
    "sys.exit(main(sys.argv[1:]))"
)
BLOCKS = 10  # all of them are the holding client's


@pytest.fixture(scope="module")
def kvstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kvstore]:
    """Of another version, full with one client, and with a short lease that kills nothing."""
    run_dir = tmp_path_factory.mktemp("doctor") / "run"
    program = (sys.executable, "-P", "-c", OF_ANOTHER_VERSION)
    process = Kvstore(run_dir, "--lease-ms=1500", "--fence-kill=false", blocks=BLOCKS, published=(), program=program)
    yield process.start()
    process.stop()


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGSTOP, and wait until the process is stopped."""
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: process_state(process.pid) == "T", "the process is stopped")


def test_a_kvstore_of_another_version(kvstore: Kvstore) -> None:
    """It is told which, and of what this command is."""
    assert "9.9" in only(found(check_kvstore, run_dir=kvstore.run_dir), "version-mismatch").seen


def test_a_pool_that_is_not_what_was_prepared(kvstore: Kvstore) -> None:
    """The fields that differ are named; the right file is no finding."""
    file = kvstore.run_dir / "prepared.json"
    before = file.read_text()
    assert "layout-mismatch" not in ids(found(check_kvstore, run_dir=kvstore.run_dir))
    file.write_text(json.dumps({"layout": asdict(replace(LAYOUT, block_size=32, weights="w1"))}))
    finding = only(found(check_kvstore, run_dir=kvstore.run_dir), "layout-mismatch")
    file.write_text(before)
    assert "weights, block_size" in finding.seen


def test_a_stopped_engine_and_its_blocks(kvstore: Kvstore) -> None:
    """A client has all blocks, is stopped and fenced, and ends: each is found as long as it is so."""
    run_dir = kvstore.run_dir

    def now() -> set[str]:
        return set(ids(found(check_kvstore, run_dir=run_dir))) - {"version-mismatch"}

    assert now() == set()
    with holding_client(run_dir) as client:
        assert now() == {"pool-exhausted"}
        client.send_signal(signal.SIGSTOP)
        fenced = {"pool-exhausted", "session-fenced", "blocks-quarantined"}
        wait_for(lambda: now() == fenced, "the stopped client is fenced")
        findings = found(check_kvstore, run_dir=run_dir)
        assert str(client.pid) in only(findings, "session-fenced").fix
        assert f"{BLOCKS} of {BLOCKS}" in only(findings, "blocks-quarantined").seen
    wait_for(lambda: now() == set(), "its blocks come back")


def test_a_stopped_kvstore(kvstore: Kvstore) -> None:
    """It is known by its lock where there is no process table, and the fix names its pid; it goes on afterwards."""
    checks, pid = (check_processes, check_kvstore), kvstore.process.pid
    assert set(ids(found(*checks, run_dir=kvstore.run_dir))) <= {"version-mismatch"}
    stop(kvstore.process)
    try:
        findings = found(*checks, run_dir=kvstore.run_dir)
    finally:
        kvstore.process.send_signal(signal.SIGCONT)
    assert f"kill -CONT {pid}" in only(findings, "process-stopped").fix
    assert "kvstore-silent" in ids(findings)
    assert set(ids(found(*checks, run_dir=kvstore.run_dir))) <= {"version-mismatch"}


def test_what_a_killed_kvstore_leaves(kvstore: Kvstore) -> None:
    """Its segment and its sockets; while it lives neither is found, and after its next start neither is there."""

    def left() -> list[str]:
        findings = found(check_memory, check_run_directory, run_dir=kvstore.run_dir)
        return [f.id for f in findings if f.where.startswith(str(kvstore.run_dir)) or segment in f.where]

    segment = json.loads((kvstore.run_dir / "arena.json").read_text())["shm"]
    assert ids(found(check_run_directory, run_dir=kvstore.run_dir)) == []
    assert "leftover-segment" not in left()
    kvstore.kill()
    assert left().count("leftover-segment") == 1
    assert left().count("stale-socket") == 2
    assert ids(found(check_kvstore, run_dir=kvstore.run_dir)) == []
    kvstore.start()
    assert "leftover-segment" not in left()
    assert "stale-socket" not in left()


@pytest.mark.skipif(not AS_ROOT, reason="only root makes pid namespaces")
def test_an_engine_in_another_pid_namespace(tmp_path: Path) -> None:
    """The kvstore sees no pid of it, and could not kill it; with none attached nothing is found."""
    kvstore = Kvstore(tmp_path / "run", program=("unshare", "--pid", "--fork", "--kill-child", *PROGRAM)).start()
    segment = Path("/dev/shm", json.loads((kvstore.run_dir / "arena.json").read_text())["shm"])
    try:
        assert ids(found(check_kvstore, run_dir=kvstore.run_dir)) == []
        with holding_client(kvstore.run_dir):
            assert ids(found(check_kvstore, run_dir=kvstore.run_dir)) == ["session-unkillable"]
    finally:
        kvstore.kill()
        segment.unlink()  # there is no next life that would


def test_an_engine_without_a_session(kvstore: Kvstore, sleeper: subprocess.Popen[bytes]) -> None:
    """Its process runs, and the kvstore does not know it; without such a process nothing is found."""
    table = ProcessTable(kvstore.run_dir)
    table.enter("engine-1", entry(sleeper))
    wait_for(lambda: len(table.running()) == 1, "the child has become its program")
    assert "engine-not-ready" in ids(found(check_kvstore, run_dir=kvstore.run_dir))
    table.remove("engine-1")
    assert "engine-not-ready" not in ids(found(check_kvstore, run_dir=kvstore.run_dir))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def entry(process: subprocess.Popen[bytes], **other: int | str) -> ProcessEntry:
    """What a supervisor writes of a process."""
    assert isinstance(process.args, list)
    return replace(ProcessEntry(process.pid, start_ticks(process.pid), list(process.args)), **other)


def test_processes_without_their_supervisor(run_dir: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """One runs, one has ended, one was started again and again, and the supervisor is dead; with one that lives only
    what has ended is found."""
    table = ProcessTable(run_dir, ProcessEntry(2**22 - 1, 1, ["quire", "serve"]))
    table.enter("gateway", entry(sleeper, starts=1))
    table.enter("engine-1", entry(sleeper, starts=7, last_end="exit code 1: no memory"))
    table.enter("engine-2", ProcessEntry(starts=2, last_end="killed by SIGKILL"))
    wait_for(lambda: len(table.running()) == 2, "the child has become its program")
    findings = found(check_processes, run_dir=run_dir)
    assert sorted(ids(findings)) == ["process-gone", "process-restarts", "supervisor-gone"]
    assert "killed by SIGKILL" in only(findings, "process-gone").seen
    assert "no memory" in only(findings, "process-restarts").seen
    table.enter_supervisor()
    assert "supervisor-gone" not in ids(found(check_processes, run_dir=run_dir))


def test_a_stopped_process_of_the_table(run_dir: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """An engine that SIGSTOP has stopped, until it goes on; that it has no session is found as well."""
    table = ProcessTable(run_dir)
    table.enter("engine-1", entry(sleeper))
    wait_for(lambda: len(table.running()) == 1, "the child has become its program")
    assert "process-stopped" not in ids(found(check_processes, run_dir=run_dir))
    stop(sleeper)
    assert "process-stopped" in ids(found(check_processes, run_dir=run_dir))
    os.kill(sleeper.pid, signal.SIGCONT)
    wait_for(lambda: "process-stopped" not in ids(found(check_processes, run_dir=run_dir)), "it goes on")


def test_a_process_older_than_what_is_installed(
    run_dir: Path, sleeper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's files were written after it had started; files that were there before are no finding."""
    table = ProcessTable(run_dir)
    table.enter("engine-1", entry(sleeper))
    wait_for(lambda: len(table.running()) == 1, "the child has become its program")
    assert "process-outdated" not in ids(found(check_processes, run_dir=run_dir))
    file = tmp_path / "__init__.py"
    file.touch()
    os.utime(file, (time.time() + 60, time.time() + 60))
    monkeypatch.setattr(quire_proto, "__file__", str(file))
    assert "process-outdated" in ids(found(check_processes, run_dir=run_dir))


@pytest.mark.slow
def test_a_gateway_without_engines_or_answers(tmp_path: Path) -> None:
    """Without an engine it answers 503, stopped not at all; with one it is well. Its port is never taken by another."""
    write_tokenizer(tmp_path)
    gateway = GatewayProcess(tmp_path).wait()
    checks, flags = (check_gateway, check_ports_free), {"run_dir": gateway.run_dir, "port": gateway.port}
    try:
        assert ids(found(*checks, **flags)) == ["gateway-unavailable"]
        gateway.engine()
        findings = found(*checks, **flags)
        assert ids(findings) == []
        assert "0." in next(finding.seen for finding in findings if finding.id == "gateway")
        table = ProcessTable(gateway.run_dir)
        table.enter("gateway", entry(gateway.process))
        stop(gateway.process)
        assert ids(found(*checks, **flags)) == ["gateway-silent"]
    finally:
        gateway.process.send_signal(signal.SIGCONT)
        assert gateway.stop() == 0
