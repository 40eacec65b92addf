"""Bodies of all ops: what a session asks of the kvstore and what it answers. A file a subject; the engines' are here.

Sequences are named by their session: a u32 chosen by the client, unique among its live sequences, so that one
message may allocate a sequence and a retry names the same one. Packed fields (``wire.arrays``) hold little-endian u32
or digests. PROTOCOL.md describes every field, and a test compares the two.
"""

from .codes import CLAIMED, CONFLICT, NO_SPACE, NO_SUCH, OK, RETRY, UNPUBLISHED
from .events import Events
from .query import AskStats, Domain, DomainKey, Found, Lookup, Publications, SessionInfo, Stats, WeightsInfo
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
    "AskStats",
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
    "WeightsInfo",
]
