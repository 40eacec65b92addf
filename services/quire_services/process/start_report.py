"""How far a process has come with loading, handed to its supervisor behind its reason (``reason``)."""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from . import reason

_DONE_TOTAL = struct.Struct("<QQ")


def report_load_share(done: int, total: int) -> None:
    """Tell the supervisor, if there is one, that ``done`` of ``total`` pieces are loaded."""
    with suppress(OSError):
        if (fd := reason.reason_fd()) >= 0:
            os.pwrite(fd, _DONE_TOTAL.pack(done, total), reason.REASON_BYTES)


def load_share_of(fd: int) -> float:
    """The share that a child has said is done, 1 if it has said nothing."""
    found = os.pread(fd, _DONE_TOTAL.size, reason.REASON_BYTES)
    done, total = _DONE_TOTAL.unpack(found) if len(found) == _DONE_TOTAL.size else (0, 0)
    return min(1.0, done / total) if total else 1.0
