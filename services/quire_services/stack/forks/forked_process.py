"""A process that the fork server has forked: a child of this process that it has not started itself.

As ``subprocess.Popen`` has them: ``pid``, ``poll``, ``wait``, ``returncode``.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress


class ForkedProcess:
    """One running process.

    Attributes:
        reason_fd: where it says why it ends, as its own descriptor.
    """

    def __init__(self, pid: int, reason_fd: int) -> None:
        self.pid, self.reason_fd = pid, reason_fd
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code once it has ended (negative: the signal), else None."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait for its end; the exit code."""
        return self._wait(0)

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode
