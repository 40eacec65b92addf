"""The fork server: ``python -m quire_services.stack.forks.server SOCKET LOCK MODULES ROOM``, for the supervisor alone.

It imports modules, and from then on forks processes that find them imported. A new process is a child of the
supervisor, as if that had started it: it is forked twice, and the supervisor is a subreaper. It enters itself in the
process table before it becomes its program, and holds the lock of the run directory until then.

Invariants: this process has one thread and touches no device, so a fork has everything that an exec would have; it
forks nothing once a file that it has imported was changed; it dies with its supervisor, and holds the lock no longer.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from quire_kvstore.host.attach_socket import start_ticks
from quire_services.config.process_table import read_process_table
from quire_services.process.preload.environment import drop_registration
from quire_services.process.reason import REASON_VARIABLE
from quire_services.stack.child import die_with

from .command_line import show_command_line
from .request import ENTERED, PACKET, READY, STALE, ForkRequest, unpacked

_PARENT_POLL_S = 0.0005


def main() -> Callable[[], None] | None:
    """Serve until the supervisor closes the socket; what is returned is to be called, in a new process."""
    link = socket.socket(fileno=int(sys.argv[1]))
    lock, modules = int(sys.argv[2]), sys.argv[3].split(",")
    show_command_line(["quire-fork-server", *modules])
    for module in modules:
        importlib.import_module(module)
    if len(os.listdir("/proc/self/task")) > 1:
        return None
    drop_registration()
    sources = _sources()
    gc.collect()
    gc.freeze()  # what is never looked at is never copied
    link.send(READY)
    while True:
        packet, fds, _, _ = socket.recv_fds(link, PACKET, 1)
        if not packet:
            return None
        if _sources() != sources:
            link.send(STALE)
            return None
        request, (reason_fd,) = unpacked(packet), fds
        if parent := _new_process():
            return lambda: _become(request, link, lock, reason_fd, parent)
        os.close(reason_fd)


def _sources() -> dict[str, int]:
    """When each file that is imported was last changed."""
    found = {}
    for module in tuple(sys.modules.values()):
        if file := getattr(module, "__file__", None):
            with suppress(OSError):
                found[file] = os.stat(file).st_mtime_ns
    return found


def _new_process() -> int:
    """In the new process the pid of the one between, whose end leaves it to the supervisor; 0 in the server."""
    if between := os.fork():
        os.waitpid(between, 0)  # if it could not fork, the supervisor waits in vain and ends this server
        return 0
    between = os.getpid()
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        os._exit(1)
    return between


def _become(request: ForkRequest, link: socket.socket, lock: int, reason_fd: int, between: int) -> None:
    """Be the process that was asked for; ends as its program does."""
    while os.getppid() == between:
        time.sleep(_PARENT_POLL_S)
    if os.getppid() != request.supervisor:  # it has died
        os._exit(1)
    link.send(b'{"pid": %d, "reason_fd": %d}' % (os.getpid(), reason_fd))
    os.setpgid(0, 0)
    argv = request.entry.argv
    show_command_line(argv)
    os.close(int(os.environ[REASON_VARIABLE]))  # the server's
    os.environ.clear()
    os.environ.update({**request.environment, REASON_VARIABLE: str(reason_fd)})
    try:
        entry = replace(request.entry, pid=os.getpid(), ticks=start_ticks(os.getpid()), reason_fd=reason_fd)
        read_process_table(Path(request.run_dir)).enter(request.name, entry)
    except OSError:  # the disk is full
        die_with(request.supervisor, signal.SIGKILL)()
    os.close(lock)
    with suppress(OSError):  # it has just died, and this process outlives it
        link.send(ENTERED)
    link.close()
    module = argv.index("-m") + 1
    sys.argv = argv[module:]
    runpy.run_module(argv[module], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if become := main():
        become()
