"""Child: one process of the stack, with its back-off.

Invariants: a child has its own process group, so that Ctrl-C in a terminal reaches the supervisor alone; the kernel
signals it when the supervisor dies, however that happens (PR_SET_PDEATHSIG). Engines and gateways then get
SIGKILL; the kvstore gets SIGTERM, because it alone holds memory that outlives a process and it gives it back
on the way out. A child that has been up for ``STABLE_S`` seconds starts its back-off anew.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from quire_services.process import load_share, reason

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 10.0
STABLE_S = 10.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int, signum: int) -> Callable[[], None]:
    """A hook for the new process: be sent ``signum`` when ``parent`` dies, at once if it is dead already."""

    def hook() -> None:
        if _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)

    return hook


class Child:
    """One process, its state and its next start.

    Attributes:
        name: as people know it, e.g. ``engine-1``.
        process: the running process, None while it is down.
        due: when to start it (``time.monotonic``), None while it runs or after the stack began to stop.
        starts: how often it was started.
        keep: start it again when it ends; False for a process that has an end.
        code: exit code of its last end (negative: the signal), None before that.
        reason: what it gave as the reason for that end, one line; empty if it said nothing.
        defaults: environment variables that it gets where ours does not have them.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        death_signal: int = signal.SIGKILL,
        keep: bool = True,
        defaults: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.defaults = dict(defaults or {})
        self.argv = list(argv)
        self.keep = keep
        self.code: int | None = None
        self.reason = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.due: float | None = None
        self.starts = 0
        self.began = 0.0
        self.pidfd = self._reason = -1
        self._death_signal = death_signal
        self._failures = 0

    @property
    def pid(self) -> int:
        """Process id, 0 while it is down."""
        return self.process.pid if self.process else 0

    @property
    def loaded(self) -> float:
        """The share of what it loads that is loaded; 1 while it says nothing of loading."""
        return load_share.load_share_of(self._reason) if self.process else 1.0

    def start(self) -> None:
        """Start the process now."""
        assert self.process is None, f"{self.name} runs already"
        self._reason = reason.new_reason_file()
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            env={**self.defaults, **os.environ, reason.REASON_VARIABLE: str(self._reason)},
            pass_fds=[self._reason],
            process_group=0,
            preexec_fn=die_with(os.getpid(), self._death_signal),  # the supervisor has one thread
        )
        self.pidfd = os.pidfd_open(self.process.pid)
        self.began = time.monotonic()
        self.due = None
        self.starts += 1

    def reap(self) -> int | None:
        """The exit code if the process has ended (negative: the signal), else None; afterwards it is down."""
        if self.process is None or self.process.poll() is None:
            return None
        code = self.process.returncode
        self.signal(signal.SIGKILL)  # whatever it may have left in its group
        self.reason = reason.reason_of(self._reason)
        os.close(self.pidfd)
        os.close(self._reason)
        self.process, self.pidfd, self._reason, self.code = None, -1, -1, code
        return code

    def back_off(self) -> float:
        """Plan the next start; returns the delay in seconds."""
        now = time.monotonic()
        self._failures = 0 if now - self.began >= STABLE_S else self._failures + 1
        delay = min(MAX_DELAY_S, FIRST_DELAY_S * float(1 << min(max(self._failures - 1, 0), 10)))
        self.due = now + delay
        return delay

    def signal(self, signum: int) -> None:
        """Send ``signum`` to the whole process group; nothing happens if it is gone."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signum)
