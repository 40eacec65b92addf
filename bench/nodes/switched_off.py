"""A machine that is switched off, on one that is not: everything of one node ends in the same moment, Ray's node too.

All of it is halted first and killed then, so that nothing has time to see another's end and to do something in order.
A node that stays halted is a machine whose cable was pulled: its connections are open, and nothing comes.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from quire_services.config.process_table import read_process_table

_RAY_START = b"ray.scripts.scripts"


def machine_of(run_dir: Path) -> list[int]:
    """All processes of the machine on which a local cluster's node runs: Ray's, and the stack's. Raises LookupError."""
    actor = int((run_dir.parent / "owner").read_text().split()[0])
    parents = _parents()
    raylet = parents.get(actor, 0)
    start = parents.get(raylet, 0)
    if not start or _RAY_START not in Path(f"/proc/{start}/cmdline").read_bytes():
        raise LookupError(f"process {actor} is no actor of a node that `ray start --block` has begun")
    return _below([start, *(entry.pid for entry in read_process_table(run_dir).running().values())], parents)


def has_head(processes: Iterable[int]) -> bool:
    """Whether these are of Ray's head, with which the whole cluster ends."""
    for pid in processes:
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "gcs_server":
                return True
    return False


def cut_off(processes: Iterable[int]) -> None:
    """Halt them."""
    _send(processes, signal.SIGSTOP)


def switch_off(processes: Iterable[int]) -> None:
    """End them in one moment."""
    found = list(processes)
    _send(found, signal.SIGSTOP)
    _send(found, signal.SIGKILL)


def _send(processes: Iterable[int], signum: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _below(roots: Iterable[int], parents: dict[int, int]) -> list[int]:
    children = defaultdict[int, list[int]](list)
    for pid, parent in parents.items():
        children[parent].append(pid)
    found, following = dict[int, None](), list(roots)
    while following:
        pid = following.pop()
        if pid not in found:
            found[pid] = None
            following += children[pid]
    return list(found)
