"""What the supervisor asks of its fork server, and what it is answered: JSON in packets of a socket of theirs.

    READY                         the server has imported everything
    request, with a descriptor    fork this; the descriptor is where it says why it ends
    STALE                         the server's sources have changed: it is of no use any more, and ends
    {"pid", "reason_fd"}          the new process, about itself
    ENTERED                       and it is in the process table

Nothing is asked before READY has come, nor before the last request was answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from quire_services.config.process_table import ProcessEntry

READY, STALE, ENTERED = b"ready", b"stale", b"entered"
PACKET = 1 << 20


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """One process to fork.

    Attributes:
        name: in the process table.
        run_dir: where that is.
        entry: what is written there, but for pid, start time and descriptor.
        environment: the whole of it.
        supervisor: its pid, which the new process has for a parent.
    """

    name: str
    run_dir: str
    entry: ProcessEntry
    environment: Mapping[str, str]
    supervisor: int

    def packed(self) -> bytes:
        """One packet."""
        return json.dumps(asdict(self)).encode()


def unpacked(packet: bytes) -> ForkRequest:
    """The request in a packet."""
    found: dict[str, Any] = json.loads(packet)
    return ForkRequest(**found | {"entry": ProcessEntry(**found["entry"])})
