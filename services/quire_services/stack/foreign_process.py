"""A foreign process: one of the stack that this process has not started, because its supervisor is dead or another one.

It is held by a pidfd, which is opened first and then compared with the process table, so that nothing else can be meant
by it, whatever its pid names later. It can be watched and told to end; its exit code goes to the process that reaps it,
which this one is not.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

from quire_services.config.process_table import ProcessEntry

from .words.causes import UNKNOWN_CODE


class ForeignProcess:
    """One running process; raises ProcessLookupError if it is not the one of the entry. As ``subprocess.Popen`` has
    them: ``pid``, ``poll``, ``wait``, ``returncode``."""

    def __init__(self, entry: ProcessEntry) -> None:
        self.pid = entry.pid
        self.returncode: int | None = None
        self.pidfd = os.pidfd_open(entry.pid)
        if not entry.runs():
            os.close(self.pidfd)
            raise ProcessLookupError(f"process {entry.pid} is another one")

    def poll(self) -> int | None:
        """``UNKNOWN_CODE`` once it has ended, reaped or not."""
        if self.returncode is None and self._ended(0):
            self.returncode = UNKNOWN_CODE
        return self.returncode

    def wait(self) -> int:
        """Wait for its end."""
        self._ended(None)
        self.returncode = UNKNOWN_CODE
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """To it alone, as the number of its group may be another's once it is gone; what it has forked ends with it."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signum)

    def _ended(self, timeout_ms: int | None) -> bool:
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(timeout_ms))
