"""``quire rollout`` and ``quire stop`` where they can do nothing: one line, and nothing is touched."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from quire_kvstore.host.attach_socket import start_ticks
from quire_services.config.process_table import ProcessEntry, ProcessTable
from tests.support.quire_command import Quire


def test_without_a_stack(quire: Quire, tmp_path: Path) -> None:
    """No directory, an empty one, a table that is damaged: all are no stack."""
    quire("rollout", f"--run-dir={tmp_path / 'nowhere'}").complains("no stack runs in")
    for damaged in ("", "[]", '{"processes": {"engine-1": {"pid": "1"}}}', "[" * 100_000):
        (tmp_path / "processes.json").write_text(damaged)
        quire("rollout", f"--run-dir={tmp_path}").complains("no stack of `quire serve` runs in")
        quire("stop", f"--run-dir={tmp_path}").complains("no stack of `quire serve` is in")


def test_without_a_supervisor(quire: Quire, tmp_path: Path) -> None:
    """An engine that no supervisor would start again is not ended."""
    table = ProcessTable(tmp_path, processes={"engine-1": _this_process()})
    table.save()
    quire("rollout", f"--run-dir={tmp_path}").complains("no supervisor watches")


def test_an_engine_that_is_not_ready(quire: Quire, tmp_path: Path) -> None:
    """Where the kvstore does not know an engine, none is replaced, here this process."""
    table = ProcessTable(tmp_path, processes={"engine-1": _this_process()})
    table.enter_supervisor()
    quire("rollout", f"--run-dir={tmp_path}").complains("engine-1 is not ready: nothing was replaced")


def test_one_rollout_at_a_time(quire: Quire, tmp_path: Path) -> None:
    """A second one is refused."""
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    quire("rollout", f"--run-dir={tmp_path}").complains("another rollout is under way")
    os.close(fd)


def _this_process() -> ProcessEntry:
    argv = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    return ProcessEntry(os.getpid(), start_ticks(os.getpid()), [os.fsdecode(word) for word in argv])
