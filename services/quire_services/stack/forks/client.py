"""The supervisor's side of its fork server: when it is of use, what is asked of it, and what is done when it fails.

Whatever goes wrong, no process of this is left behind and the caller starts its process in the ordinary way: a fork
server saves time and is never needed. One that has ended is started anew for the next time.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from quire_services.config.process_table import ProcessEntry
from quire_services.process.preload.environment import NVIDIA_DEVICE
from quire_services.stack.child import Child

from .command_line import ROOM
from .forked_process import ForkedProcess
from .request import ENTERED, PACKET, READY, ForkRequest

FORK_S = 5.0  # a fork takes some ten milliseconds
IMPORTS_S = 60.0  # they take three seconds
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def can_fork_engines() -> bool:
    """Whether engines here find in a fork what they find after an exec: no device, whose context no fork inherits, and
    a numpy that can be kept to one thread without torch being so too."""
    return platform.machine() == "x86_64" and not NVIDIA_DEVICE.exists()


def _adopt_orphans(adopts: bool) -> None:
    """Be the parent of descendants whose own has ended, or be no longer."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


class EngineForkServer:
    """One fork server, and its link.

    Args:
        modules: what it imports.
        lock: of the run directory.
        defaults: environment variables that it and all that it forks get where the environment does not have them.
        preload: what is in its environment in any case, as it must be in theirs.

    Attributes:
        child: the server's own process.
    """

    def __init__(
        self, modules: Sequence[str], lock: int, defaults: Mapping[str, str], preload: Mapping[str, str] | None = None
    ) -> None:
        self._modules, self._lock = ",".join(modules), lock
        self.child = Child(
            "fork server",
            [],
            keep=False,
            defaults={**defaults, "OPENBLAS_NUM_THREADS": "1"},
            environment={**os.environ, **(preload or {})},
        )
        self._link: socket.socket | None = None
        self._ready = False

    def start(self) -> None:
        """Start the server, which is ready after some seconds. Each has a link of its own, with no word of the last."""
        _adopt_orphans(True)
        self.child.reap()
        if self._link:
            self._link.close()
        self._link, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ready = False
        with far:
            words = (str(far.fileno()), str(self._lock), self._modules, ROOM)
            self.child.argv = [sys.executable, "-P", "-m", "quire_services.stack.forks.server", *words]
            self.child.pass_fds = (far.fileno(), self._lock)
            self.child.start()

    def close(self) -> None:
        """End it; what it has forked runs on."""
        if self.child.process:
            self.child.signal(signal.SIGKILL)
            self.child.process.wait()
            self.child.reap()
        if self._link:
            self._link.close()
        _adopt_orphans(False)

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for: it is ready, or does not run, or takes too long."""
        self._look()
        late = time.monotonic() > self.child.began + IMPORTS_S
        return self._ready or self.child.process is None or late

    def fork(
        self, name: str, run_dir: Path, entry: ProcessEntry, environment: Mapping[str, str]
    ) -> ForkedProcess | None:
        """Have a process forked that runs ``entry.argv``; None if that has to be done in another way now."""
        self._look()
        if self.child.process is None or self.child.process.poll() is not None:
            self.start()
        if not self._ready or not self._link:
            return None
        request = ForkRequest(name, str(run_dir), entry, environment, os.getpid())
        begun: ForkedProcess | None = None
        try:
            socket.send_fds(self._link, [request.packed()], [entry.reason_fd])
            told = json.loads(self._answer())
            begun = ForkedProcess(told["pid"], told["reason_fd"])
            if self._answer() == ENTERED:
                return begun
        except (OSError, ValueError, TypeError, LookupError):
            pass
        self.child.signal(signal.SIGKILL)  # its group, with what it has begun and not told
        if begun:
            begun.kill()
        return None

    def _answer(self) -> bytes:
        """What it says next. Raises OSError if that takes too long."""
        if not self._link or not select.select([self._link], [], [], FORK_S)[0]:
            raise TimeoutError
        return self._link.recv(PACKET)

    def _look(self) -> None:
        if self._link and not self._ready and select.select([self._link], [], [], 0)[0]:
            self._ready = self._link.recv(PACKET) == READY

    def reap_strangers(self, known: Sequence[int]) -> None:
        """Bury the dead that others have left to this process, which has no names for them."""
        with suppress(ChildProcessError):
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid in known:
                    return
                os.waitpid(found.si_pid, 0)
