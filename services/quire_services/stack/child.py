"""Child: one process of the stack, with its back-off.

Invariants: a child has its own process group, so that Ctrl-C in a terminal reaches the supervisor alone. A child that
is entered in the process table outlives a supervisor that is killed: the next one adopts it from there. It enters
itself, between fork and exec, and inherits the lock of the run directory up to the exec: a supervisor that gets the
lock finds a table without gaps. What has an end, or cannot be entered, is killed by the kernel when its supervisor dies
(PR_SET_PDEATHSIG). A child that has been up for ``STABLE_S`` seconds starts its back-off anew; one that was ready and
ended in order has not failed and is started again at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from quire_kvstore.host.attach_socket import start_ticks
from quire_services.config.process_table import ProcessEntry, ProcessTable
from quire_services.config.socket_names import LOG_SOCKET
from quire_services.process import reason, start_report
from quire_services.process.log_handover import HANDOVER_VARIABLE

from .foreign_process import ForeignProcess
from .forks.forked_process import ForkedProcess
from .words.causes import UNKNOWN_CODE, how_it_ended

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 10.0
STABLE_S = 10.0
TO_END = ("--drain-s=", "--leave-s=")  # settings that give a process time to end in
SPARE_S = 4.0  # beside that
Fork = Callable[[str, Path, ProcessEntry, Mapping[str, str]], ForkedProcess | None]
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

    Args:
        table: where it is entered; None for a process that is to die with the supervisor.
        fork: how it is had quicker than by an exec, given its name, the table's folder, its entry and its environment;
            what comes of that has entered itself, and it may come to nothing.

    Attributes:
        name: as people know it, e.g. ``engine-1``.
        process: the running process, None while it is down.
        due: when to start it (``time.monotonic``), None while it runs or after the stack began to stop.
        starts: how often it was started.
        keep: start it again when it ends; False for a process that has an end.
        settled: it has been ready in this life.
        code: exit code of its last end (negative: the signal), None before that.
        reason: what it gave as the reason for that end, one line; empty if it said nothing.
        defaults: environment variables that it gets where the environment does not have them.
        environment: what it gets in place of our environment.
        settings: a digest of what it is started with.
        pass_fds: descriptors that it inherits.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        keep: bool = True,
        defaults: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        settings: str = "",
        table: ProcessTable | None = None,
        fork: Fork | None = None,
    ) -> None:
        self.name = name
        self.defaults = dict(defaults or {})
        self.environment = os.environ if environment is None else environment
        self.argv = list(argv)
        self.keep = keep
        self.settings = settings
        self.settled = False
        self.code: int | None = None
        self.reason = ""
        self.process: subprocess.Popen[bytes] | ForeignProcess | ForkedProcess | None = None
        self.pass_fds: Sequence[int] = ()
        self.due: float | None = None
        self.starts = 0
        self.began = 0.0
        self.pidfd = self._reason = -1
        self._table, self._fork = table, fork
        self._entry = ProcessEntry()
        self._failures = 0
        self._told = False

    @property
    def pid(self) -> int:
        """Process id, 0 while it is down."""
        return self.process.pid if self.process else 0

    @property
    def inherited(self) -> bool:
        """Whether it runs and another supervisor has started it."""
        return isinstance(self.process, ForeignProcess)

    @property
    def outdated(self) -> bool:
        """Whether it runs with other settings than a start would give it now."""
        return self.process is not None and self._entry.settings != self.settings

    @property
    def grace_s(self) -> float:
        """Seconds in which its settings let it end when it is asked to, and a few more; 0 if they say nothing of it."""
        argv = self._entry.argv if self.process else self.argv
        found = [argument.partition("=")[2] for argument in argv if argument.startswith(TO_END)]
        return max((float(seconds) + SPARE_S for seconds in found), default=0.0)

    @property
    def loaded(self) -> float:
        """The share of what it loads that is loaded; 1 while it says nothing of loading."""
        return start_report.load_share_of(self._reason) if self.process else 1.0

    @property
    def facts(self) -> dict[str, Any]:
        """What it has told of its start."""
        return start_report.facts_of(self._reason) if self.process else {}

    def start(self) -> None:
        """Start the process now."""
        assert self.process is None, f"{self.name} runs already"
        self._reason = reason.new_reason_file()
        self.starts += 1
        self._entry = ProcessEntry(
            0, 0, self.argv, self.settings, self._reason, self.starts, self.last_end if self.starts > 1 else ""
        )
        self.process = self._forked() or self._executed()
        if self._table:
            self._table.processes[self.name] = self._of(self.process.pid)  # as it has written itself
        self.pidfd = os.pidfd_open(self.process.pid)
        self.began, self.due = time.monotonic(), None
        self.settled = self._told = False

    def _environment(self) -> dict[str, str]:
        """By its own variables it finds its supervisor, and later the next one."""
        ours = {reason.REASON_VARIABLE: str(self._reason)}
        ours |= {HANDOVER_VARIABLE: str(self._table.run_dir / LOG_SOCKET)} if self._table else {}
        return {**self.defaults, **self.environment, **ours}

    def _forked(self) -> ForkedProcess | None:
        if self._fork is None or self._table is None:
            return None
        forked = self._fork(self.name, self._table.run_dir, self._entry, self._environment())
        if forked:
            self._entry = replace(self._entry, reason_fd=forked.reason_fd)
        return forked

    def _executed(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            env=self._environment(),
            pass_fds=[self._reason, *self.pass_fds],
            process_group=0,
            preexec_fn=self._hook(),  # the supervisor has one thread
        )

    def adopt(self, entry: ProcessEntry) -> bool:
        """Take over a process of a dead supervisor; False if it has ended."""
        assert self.process is None, f"{self.name} runs already"
        with suppress(OSError):
            self.process = foreign = ForeignProcess(entry)
            self.pidfd, self._entry, self.starts = foreign.pidfd, entry, entry.starts
            self._reason = reason.reason_file_of(entry.pid, entry.reason_fd)
            self.began = time.monotonic()
        return self.process is not None

    def reap(self) -> int | None:
        """The exit code if the process has ended (negative: the signal), else None; afterwards it is down."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        if not self.inherited:
            self.signal(signal.SIGKILL)  # whatever it may have left in its group
        self.reason = reason.reason_of(self._reason)
        os.close(self.pidfd)
        os.close(self._reason)
        self.process, self.pidfd, self._reason, self.code = None, -1, -1, code
        self._note_end()
        return code

    @property
    def last_end(self) -> str:
        """How it ended last, and why as far as it said."""
        ended = "" if self.code is None else how_it_ended(self.code)
        return f"{ended}: {self.reason}" if self.reason else ended

    def back_off(self) -> float:
        """Plan the next start; returns the delay in seconds."""
        now = time.monotonic()
        if self.code == UNKNOWN_CODE or (self.settled and self.code == 0):
            self._failures, delay = 0, 0.0
        else:
            self._failures = 0 if now - self.began >= STABLE_S else self._failures + 1
            delay = min(MAX_DELAY_S, FIRST_DELAY_S * float(1 << min(max(self._failures - 1, 0), 10)))
        self.due = now + delay
        return delay

    def ask_to_end(self) -> None:
        """Send SIGTERM, once in a life: a second one would cut short what the first has begun."""
        if self.process is not None and not self._told:
            self._told = True
            self.signal(signal.SIGTERM)

    def signal(self, signum: int) -> None:
        """Send ``signum`` to the whole process group; nothing happens if it is gone."""
        if isinstance(self.process, ForeignProcess):
            self.process.send_signal(signum)
        elif self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signum)

    def let_go(self) -> None:
        """Leave a process that is in the table to the next supervisor."""
        if self.process is not None and self._table:
            os.close(self.pidfd)
            os.close(self._reason)
            self.process, self.pidfd, self._reason = None, -1, -1

    def _hook(self) -> Callable[[], None]:
        """What the new process does before it becomes the program."""
        dies = die_with(os.getpid(), signal.SIGKILL)

        def hook() -> None:
            if self._table is None:
                return dies()
            try:
                self._table.enter(self.name, self._of(os.getpid()))
            except OSError:  # the disk is full
                dies()
            return None

        return hook

    def _of(self, pid: int) -> ProcessEntry:
        return replace(self._entry, pid=pid, ticks=start_ticks(pid))

    def _note_end(self) -> None:
        if self._table:
            with suppress(OSError):  # a name of a process that is gone is no harm
                self._table.enter(self.name, replace(self._entry, pid=0, ticks=0, last_end=self.last_end))
