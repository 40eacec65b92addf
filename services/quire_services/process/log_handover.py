"""Where a process logs to, handed over: what outlives its supervisor goes on in the stderr of the next one.

A process logs to the stderr that it was started with; a terminal or a pipe of a dead supervisor may have no reader.
The new supervisor listens for a moment in the run directory, sends each process ``SIGURG``, which those that know
nothing of this ignore, and hands its own stderr to the one that connects. Nothing waits for long: a process that is
busy or stopped goes on logging where it did.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from quire_proto.private_dir import free_socket_name

HANDOVER_VARIABLE = "SUPERVISOR_LOG_SOCKET"
HANDOVER_SIGNAL = signal.SIGURG
HANDOVER_S = 0.5  # of a process, to come for it and to get it


def accept_handovers() -> None:
    """Take the stderr of the next supervisor when it says so; to be called in the main thread, once."""
    if HANDOVER_VARIABLE in os.environ:
        signal.signal(HANDOVER_SIGNAL, _fetch)


def hand_over_stderr(path: Path, tell: Iterable[Callable[[int], None]]) -> int:
    """Hand our stderr to processes, each told by a function that sends it a signal; returns to how many. Raises
    OSError."""
    taken = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        free_socket_name(path)
        listener.bind(str(path))
        try:
            listener.listen()
            listener.settimeout(HANDOVER_S)
            for signal_it in tell:
                signal_it(HANDOVER_SIGNAL)
                with suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        socket.send_fds(connection, [b"2"], [2])
                        taken += 1
        finally:
            path.unlink(missing_ok=True)
    return taken


def _fetch(_signum: int, _frame: FrameType | None) -> None:
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(HANDOVER_S)
        connection.connect(os.environ[HANDOVER_VARIABLE])
        for fd in socket.recv_fds(connection, 1, 1)[1]:
            os.dup2(fd, 2)
            os.close(fd)
