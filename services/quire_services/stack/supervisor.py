"""Supervisor: keeps the processes of a stack running and takes them down in order.

One thread, no polling: it sleeps in ``poll`` on the children's pidfds and on the wake-up descriptor that Python's
signal machinery writes to. Invariants: a child that ends is started again after its back-off, unless it was to end;
ending is by groups, each with a deadline after which SIGKILL follows; in a stop a second signal skips all deadlines;
when ``stop`` returns, no child runs.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType

from .child import Child

STOP_DEADLINE_S = 10.0  # seconds for each of gateway, engines, kvstore, unless their settings give them more
KILL_POLL_S = 0.05
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """Runs children until it is stopped.

    Args:
        ended: called with a child, its exit code and the seconds until it is started again.
    """

    def __init__(self, ended: Callable[[Child, int, float], None]) -> None:
        self.children: list[Child] = []
        self.signals = 0
        self._ended = ended
        self._stopping = False
        self._ending: set[Child] = set()
        self._read, self._write = socket.socketpair()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Supervisor:
        for end in (self._read, self._write):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        # Under nohup SIGHUP is ignored from the start, and is to stay so: the end of the terminal is not ours.
        heeded = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {signum: signal.signal(signum, self._on_signal) for signum in heeded}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self.children:
            child.signal(signal.SIGKILL)
            if child.process:
                child.process.wait()
                child.reap()
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        self._read.close()
        self._write.close()

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self.signals += 1

    def start(self, child: Child) -> Child:
        """Start a child, unless it runs already, and keep it running."""
        self.watch(child)
        if child.process is None:
            child.start()
        return child

    def watch(self, child: Child) -> None:
        """Keep a child running that is already, and see to its end."""
        if child not in self.children:
            self.children.append(child)

    def let_go(self) -> None:
        """Leave all children that are in a process table to the next supervisor."""
        for child in self.children:
            child.let_go()

    def pump(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for anything to happen, then see to exits and due restarts."""
        now = time.monotonic()
        due = [child.due - now for child in self.children if child.due is not None]
        self._wait(max(0.0, min([timeout, *due])))
        for child in self.children:
            code = child.reap()
            if code is not None and child.keep and not self._stopping and child not in self._ending:
                self._ended(child, code, child.back_off())
        now = time.monotonic()
        for child in self.children:
            if child.due is not None and child.due <= now and not self._stopping:
                child.start()

    def _wait(self, timeout: float) -> None:
        poller = select.poll()
        poller.register(self._read, select.POLLIN)
        for child in self.children:
            if child.process is not None:
                poller.register(child.pidfd, select.POLLIN)
        poller.poll(timeout * 1000)
        with suppress(BlockingIOError):
            while self._read.recv(64):
                pass

    def end(self, group: Sequence[Child], deadline: float) -> list[str]:
        """End a group of which none is to be started again by itself: SIGTERM, up to ``deadline`` seconds or what their
        settings give them, SIGKILL. A signal cuts that short: what is asked to end is then left to ``stop``.

        Returns the names of the children that had to be killed.
        """
        self._ending.update(group)
        signals, limit = self.signals, _limit(group, deadline)
        self._ask(group)
        while any(child.process for child in group) and time.monotonic() < limit and self.signals == signals:
            self.pump(min(1.0, limit - time.monotonic()))
        killed = [] if self.signals > signals else self._kill(group)
        self._ending.difference_update(group)
        return killed

    def stop(self, groups: Sequence[Sequence[Child]], deadline: float) -> list[str]:
        """Stop the groups one after the other: SIGTERM, up to ``deadline`` seconds or what their settings give them,
        SIGKILL.

        Returns the names of the children that had to be killed.
        """
        self._stopping = True
        signals = self.signals
        killed = []
        for group in groups:
            limit = _limit(group, deadline)
            self._ask(group)
            while any(child.process for child in group) and time.monotonic() < limit and self.signals == signals:
                self.pump(min(1.0, limit - time.monotonic()))
            killed += self._kill(group)
        return sorted(set(killed))

    def _ask(self, group: Sequence[Child]) -> None:
        for child in group:
            child.due = None
            child.ask_to_end()

    def _kill(self, group: Sequence[Child]) -> list[str]:
        """Kill those that still run, and wait for their end; returns their names."""
        killed = sorted(child.name for child in group if child.process)
        while any(child.process for child in group):
            for child in group:
                child.signal(signal.SIGKILL)
            self.pump(KILL_POLL_S)
        return killed


def _limit(group: Sequence[Child], deadline: float) -> float:
    """When all of a group must have ended that are asked to now, monotonic."""
    return time.monotonic() + max([deadline, *(child.grace_s for child in group)])
