"""What a dead node leaves on its machine goes; what has an owner stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from quire_services.cluster.node_home import NodeHome, sweep_homes
from tests.support.waits import wait_for


def test_the_home_of_a_dead_owner_is_swept_and_that_of_a_living_one_is_not() -> None:
    """By pid and start time of the process that made it."""
    ours = NodeHome("sweep-test", {"a/b.txt": b"1"})
    made = "from quire_services.cluster.node_home import NodeHome; print(NodeHome('sweep-test', {}).path)"
    theirs = Path(
        subprocess.run([sys.executable, "-c", made], check=True, capture_output=True, text=True).stdout.strip()
    )
    assert theirs.is_dir()
    assert sweep_homes("sweep-test") == [theirs.name]
    assert not theirs.exists()
    assert (ours.path / "a" / "b.txt").read_bytes() == b"1"
    ours.remove()
    assert not ours.path.exists()


def test_a_tied_process_is_asked_to_end_when_its_starter_is_killed(tmp_path: Path) -> None:
    """By the kernel, whatever the starter died of."""
    told = tmp_path / "told"
    starter = f"""
import os, subprocess, sys
tied = [sys.executable, "-P", "-m", "quire_services.cluster.tied_process", str(os.getpid())]
subprocess.run([*tied, sys.executable, "-c", {_told_child(told)!r}])
"""
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.kill()
    wait_for(told.exists, "the child was asked to end")


def test_a_tied_process_is_asked_to_end_when_its_parent_is_killed(tmp_path: Path) -> None:
    """With SIGKILL and alone, as Ray does with the children of a worker that it ends; asked itself, it passes it on."""
    for signum in (signal.SIGKILL, signal.SIGTERM):
        told = tmp_path / f"told-{signum}"
        tied = [sys.executable, "-P", "-m", "quire_services.cluster.tied_process", str(os.getpid())]
        with subprocess.Popen(
            [*tied, sys.executable, "-c", _told_child(told)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "on\n"
            process.send_signal(signum)
            assert process.wait(20) == (-signum if signum == signal.SIGKILL else 7)
        wait_for(told.exists, "the command was asked to end")


def _told_child(told: Path) -> str:
    """A program that says when it is on, and writes a file when it is asked to end."""
    return f"""
import pathlib, signal, time
def end(*_):
    pathlib.Path({str(told)!r}).write_text("asked")
    raise SystemExit(7)
signal.signal(signal.SIGTERM, end)
print("on", flush=True)
time.sleep(60)
"""
