"""The processes of a stack, by the process table, and by the lock of the kvstore's roster where there is no table."""

from __future__ import annotations

import os
import time
from pathlib import Path

import quire_proto
from quire_kvstore.host.arena import ROSTER_FILE
from quire_kvstore.host.attach_socket import start_ticks
from quire_services.config.process_table import ProcessEntry
from quire_services.doctor.findings import Finding, Findings, fact, problem
from quire_services.doctor.scene import Scene, lock_owner, process_state

MANY_STARTS = 3


def check_processes(scene: Scene) -> Findings:
    """Each that should run does, is not stopped, and is of what is installed."""
    table = scene.table
    running = table.running()
    known = {name: entry.pid for name, entry in running.items()}
    if "kvstore" not in table.processes and (pid := lock_owner(scene.run_dir / ROSTER_FILE)):
        known["kvstore"] = pid
    watched = bool(table.supervisor.pid) and table.supervisor.runs()
    for name, pid in known.items():
        yield from _stopped(name, pid)
        yield from _outdated(name, pid)
    if watched:
        yield from _stopped("supervisor", table.supervisor.pid)
    elif running:
        yield problem(
            "supervisor-gone",
            f"{len(running)} processes run and no supervisor watches them: what ends is not started again",
            "quire serve, with the settings of the stack, takes them over; quire stop ends them",
            scene.run_dir,
        )
    for name, entry in table.processes.items():
        if name not in running and (running or watched):
            yield _gone(name, entry, watched)
        elif entry.starts >= MANY_STARTS:
            yield problem(
                "process-restarts",
                f"{name} was started {entry.starts} times; before: {entry.last_end or 'not known'}",
                "the reason is in the log of the stack; a model that does not fit and a full GPU are the usual ones",
                name,
            )
    if known:
        yield fact("processes", ", ".join(f"{name} {pid}" for name, pid in sorted(known.items())))


def _gone(name: str, entry: ProcessEntry, watched: bool) -> Finding:
    ended = entry.last_end or "how is not known"
    return problem(
        "process-gone",
        f"{name} does not run; it ended: {ended}",
        "its supervisor starts it again; if it does not come up the reason is in the log"
        if watched
        else "quire serve, with the settings of the stack, starts it again",
        name,
    )


def _stopped(name: str, pid: int) -> Findings:
    state = process_state(pid)
    if state in ("T", "t"):
        yield problem(
            "process-stopped",
            f"{name} (pid {pid}) is stopped: by a signal or a debugger; what waits for it hangs",
            f"kill -CONT {pid}; or kill -9 {pid}, which costs no request if it is an engine",
            f"pid {pid}",
        )


def _outdated(name: str, pid: int) -> Findings:
    """Files of the package are written by an installation; a process has read them when it started."""
    installed = Path(quire_proto.__file__).stat().st_mtime
    try:
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks(pid) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return
    if time.time() - age < installed:
        yield problem(
            "process-outdated",
            f"{name} (pid {pid}) was started before what is installed now",
            "quire rollout replaces engines; for gateway and kvstore kill -9 the supervisor, then quire serve",
            f"pid {pid}",
        )
