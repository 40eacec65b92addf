"""A node's home: the folder in which its stack runs, and what becomes of one whose owner is dead.

    /tmp/quire-UID-cluster-CLUSTER.xxxxxxxx/    0700
        owner       pid and start time of the actor that watches the stack
        quire.toml  and what it names, as the order has them
        run/        the run directory of ``quire serve``

An owner that is killed takes its stack along (``tied_process``), but for the case that both are killed at once: a
stack outlives its supervisor. So whoever makes a home, and whoever takes the cluster down, first ends what is left in
homes of the same cluster whose owner is gone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from quire_kvstore.host.attach_socket import start_ticks
from quire_services.process.subcommand import command_line
from quire_services.stack.rundir import MARKER_FILE

LEFTOVER_STOP_S = 90.0
_OWNER, _RUN = "owner", "run"


def _prefix(cluster: str) -> str:
    return f"quire-{os.getuid()}-cluster-{cluster}."


class NodeHome:
    """A new home, of this process. Attributes: ``path``, and ``run_dir`` in it, which is not made yet."""

    def __init__(self, cluster: str, files: Mapping[str, bytes]) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_prefix(cluster)))
        self.run_dir = self.path / _RUN
        (self.path / _OWNER).write_text(f"{os.getpid()} {start_ticks(os.getpid())}")
        for name, data in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)  # nobody else can enter the folder

    def remove(self) -> None:
        """End what is left in it, and remove it."""
        _remove(self.path)


def sweep_homes(cluster: str) -> list[str]:
    """Remove the homes of dead owners on this machine, and what runs there; their names."""
    pattern = re.compile(re.escape(_prefix(cluster)) + r"\w+")
    named = [path for path in Path(tempfile.gettempdir()).iterdir() if pattern.fullmatch(path.name)]
    found = [path for path in named if path.lstat().st_uid == os.getuid() and not _owned(path)]
    for path in found:
        _remove(path)
    return [path.name for path in found]


def _owned(path: Path) -> bool:
    """Whether its owner lives; one that has no owner yet is being made."""
    try:
        pid, ticks = map(int, (path / _OWNER).read_text().split())
        return start_ticks(pid) == ticks
    except ValueError:
        return True
    except OSError:
        return not (path / _OWNER).exists()


def _remove(path: Path) -> None:
    run_dir = path / _RUN
    if (run_dir / MARKER_FILE).exists():
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command_line("stop", f"--run-dir={run_dir}"),
                stdin=subprocess.DEVNULL,
                check=False,
                timeout=LEFTOVER_STOP_S,
            )
    shutil.rmtree(path, ignore_errors=True)
