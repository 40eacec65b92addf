"""Files that users name: read whole, within bounds of size and time, and complained of in one line; and files of
our own, written whole for their owner alone.

Whatever a path turns out to be is answered soon. A pipe is read until its writers have closed it, as in
``--file <(command)``, but no longer than ``SILENCE_S`` is spent on its next bytes; a device without end stops at the
limit. Every failure is an OSError whose ``strerror`` says what is wrong, so that callers have one thing to catch.
"""

from __future__ import annotations

import errno
import os
import re
import select
from pathlib import Path

SILENCE_S = 5.0
MAX_LINE_CHARS = 500
MAX_TOKEN_BYTES = 4096  # of the file with the admin API's token
_PIECE = 1 << 20
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def read_bytes(file: Path, most: int) -> bytes:
    """The content of a file of at most ``most`` bytes; raises OSError."""
    try:
        # Without O_NONBLOCK the open itself would wait for a writer of a pipe.
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a path that cannot be one, with a null byte in it
        raise OSError(errno.EINVAL, str(error)) from None
    try:
        return _read(fd, most)
    finally:
        os.close(fd)


def _read(fd: int, most: int) -> bytes:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    pieces: list[bytes] = []
    size = 0
    while size <= most:
        if not poll.poll(SILENCE_S * 1000):
            raise OSError(errno.ETIMEDOUT, f"nothing came out of it for {SILENCE_S:.0f} seconds")
        piece = os.read(fd, min(_PIECE, most + 1 - size))
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
    raise OSError(errno.EFBIG, f"more than {most} bytes")


def write_private(file: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one, and only its owner can read it. Raises
    OSError, or ValueError for a path that cannot be one."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as out:
        out.write(text)
    draft.replace(file)


def one_line(text: str) -> str:
    """A complaint as a terminal can show it: no control characters, no halves of surrogate pairs, not too long."""
    line = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text.strip())
    return line if len(line) <= MAX_LINE_CHARS else f"{line[: MAX_LINE_CHARS // 2]} ... {line[-MAX_LINE_CHARS // 2 :]}"
