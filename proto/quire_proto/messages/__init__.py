"""Bodies of all ops: what a session asks of the kvstore and what it answers.

Sequences are named by their session: a u32 chosen by the client, unique among its live sequences, so that one
message may allocate a sequence and a retry names the same one. Packed fields hold little-endian u32 (``packed``).
PROTOCOL.md describes every field; fields of ops that come later are here already, so that version 1 stays version 1.
"""

from .codes import CLAIMED, CONFLICT, NO_SPACE, NO_SUCH, OK, RETRY, UNPUBLISHED
from .events import Events
from .query import Domain, DomainKey, Found, Lookup, Publications, SessionInfo, Stats
from .sequence import (
    Allocate,
    Allocated,
    Extend,
    Extended,
    Fork,
    Forked,
    Free,
    Freed,
    Seal,
    Sealed,
    Shortage,
    Wait,
    Waited,
)
from .session import Alive, Attach, Attached, Detached, Empty, Heartbeat, Limits, Publication
from .step import Step, Stepped

__all__ = [
    "CLAIMED",
    "CONFLICT",
    "NO_SPACE",
    "NO_SUCH",
    "OK",
    "RETRY",
    "UNPUBLISHED",
    "Alive",
    "Allocate",
    "Allocated",
    "Attach",
    "Attached",
    "Detached",
    "Domain",
    "DomainKey",
    "Empty",
    "Events",
    "Extend",
    "Extended",
    "Fork",
    "Forked",
    "Found",
    "Free",
    "Freed",
    "Heartbeat",
    "Limits",
    "Lookup",
    "Publication",
    "Publications",
    "Seal",
    "Sealed",
    "SessionInfo",
    "Shortage",
    "Stats",
    "Step",
    "Stepped",
    "Wait",
    "Waited",
]
