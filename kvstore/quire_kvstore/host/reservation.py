"""The pool's pages, taken from the system before any process writes to them.

A file in /dev/shm that was only given a length gets its pages one by one, when they are first written. If something
else has filled /dev/shm by then, or the container's memory is used up, the writer is killed by SIGBUS: an engine, in
the middle of whatever it does, and again after every restart. So all pages are allocated at the start. The kernel
zeroes them on the way (1 to 3 s a GiB), so that happens in a thread, piece by piece, while the engines load their
model; a pool that cannot be had ends the kvstore with one line.

``reserve = false`` is the other bargain: a pool costs what is used of it, and a process that fills /dev/shm kills
engines.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from .host_space import lacking

PIECE_BYTES = 64 << 20  # allocated at a time; a stop waits for one


class Reservation:
    """Allocates all pages of a file in a thread of its own.

    Args:
        file: of its final length.
        size: bytes.
        failed: called on the thread, with the reason, if the pages cannot be had.
    """

    def __init__(self, file: Path, size: int, failed: Callable[[str], None]) -> None:
        self._file, self._size, self._failed = file, size, failed
        self._stop = threading.Event()
        self._fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._thread = threading.Thread(target=self._run, name="reservation", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether the thread has ended within the time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop after the present piece."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for start in range(0, self._size, PIECE_BYTES):
                if self._stop.is_set():
                    return
                os.posix_fallocate(self._fd, start, min(PIECE_BYTES, self._size - start))
        except OSError as error:
            self._failed(self._why(error, start))
        finally:
            os.close(self._fd)

    def _why(self, error: OSError, done: int) -> str:
        where, rest = self._file.parent, self._size - done
        why = lacking(where, rest, memory=True) or f"the pool needs {rest:,} more bytes in {where}: {error.strerror}"
        return f"{why} (something else took it since the start: df {where})"
