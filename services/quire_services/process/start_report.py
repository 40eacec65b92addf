"""What a process tells its supervisor of its start, behind its reason (``reason``): how far it has come with loading,
then what came of it.

    reason | done, total | facts: one JSON object, padded with null bytes

Facts are what only the process itself knows, such as the size of the pool or why attention is not compiled; they are
for a person's eyes and nothing depends on them.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from typing import Any

from . import reason

_DONE_TOTAL = struct.Struct("<QQ")
_FACTS_AT = reason.REASON_BYTES + _DONE_TOTAL.size
_FACTS_BYTES = 8192


def report_load_share(done: int, total: int) -> None:
    """Tell the supervisor, if there is one, that ``done`` of ``total`` pieces are loaded."""
    _write(_DONE_TOTAL.pack(done, total), reason.REASON_BYTES)


def load_share_of(fd: int) -> float:
    """The share that a child has said is done, 1 if it has said nothing."""
    found = os.pread(fd, _DONE_TOTAL.size, reason.REASON_BYTES)
    done, total = _DONE_TOTAL.unpack(found) if len(found) == _DONE_TOTAL.size else (0, 0)
    return min(1.0, done / total) if total else 1.0


def report_facts(**facts: str | float | bool) -> None:
    """Tell the supervisor, if there is one, what it shows of this process when all are ready."""
    text = json.dumps(facts).encode()
    if len(text) <= _FACTS_BYTES:
        _write(text.ljust(_FACTS_BYTES, b"\0"), _FACTS_AT)


def facts_of(fd: int) -> dict[str, Any]:
    """What a child has told; empty if nothing, or nothing that can be read."""
    try:
        found = json.loads(os.pread(fd, _FACTS_BYTES, _FACTS_AT).rstrip(b"\0"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(content: bytes, offset: int) -> None:
    with suppress(OSError):
        if (fd := reason.reason_fd()) >= 0:
            os.pwrite(fd, content, offset)
