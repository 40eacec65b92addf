"""stdin, stdout and stderr of a command: there, and never what ends it.

A command may be started with any of them closed (``>&-``), on a full disk, into a pipe whose reader leaves, or on a
terminal that is closed later. What is printed is for people: where it cannot go it is dropped, and the work goes on.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)  # what cannot be printed ends with


def open_standard_streams() -> None:
    """Put /dev/null in the place of those that are closed, or else the next file opened would get their descriptor."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w", closefd=False))


def print_line(text: str, stream: TextIO) -> None:
    """Print a line now; if it cannot be printed, this and every later one goes nowhere."""
    print_now(text + "\n", stream)


def print_now(text: str, stream: TextIO) -> None:
    """The same for text that ends no line."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        discard_stream(stream)


def discard_stream(stream: TextIO) -> None:
    """Let a stream end in /dev/null, the unwritten rest included: the interpreter flushes it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # not a file, or closed
        pass
    finally:
        os.close(nowhere)
