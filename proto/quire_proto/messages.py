"""Bodies of all ops: what a session asks of the kvstore and what it answers.

Sequences are named by their session: a u32 chosen by the client, unique among its live sequences, so that one
message may allocate a sequence and a retry names the same one. Packed fields hold little-endian u32 (``packed``).
PROTOCOL.md describes every field; fields of ops that come later are here already, so that version 1 stays version 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from .codec import Whole
from .handles import Handle
from .layout import Layout

U32s = Annotated[bytes, Whole(4)]
Pairs = Annotated[bytes, Whole(8)]
Triples = Annotated[bytes, Whole(12)]
Quads = Annotated[bytes, Whole(16)]
Digests = Annotated[bytes, Whole(32)]

# Item codes: the result of one item of a step. "No space" is a result, not an error.
OK, NO_SUCH, CONFLICT, NO_SPACE, UNPUBLISHED, RETRY, CLAIMED = range(7)


@dataclass(frozen=True, slots=True)
class Empty:
    """A body without fields."""


# --- session -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attach:
    """Open a session. ``token`` (from the side socket) makes it writable; the same ``nonce`` gives the same session."""

    nonce: bytes
    token: bytes = b""
    name: str = ""
    layout: Layout | None = None
    gpu_uuid: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the kvstore accepts from one session."""

    frame_bytes: int
    items: int
    blocks: int
    window: int


@dataclass(frozen=True, slots=True)
class Publication:
    """A prompt put into a share domain. ``state``: ``pending`` (nobody has computed it yet) or ``ready``."""

    id: str
    generation: int
    domain: str
    tokens: U32s
    state: str


@dataclass(frozen=True, slots=True)
class Attached:
    """Reply to attach. The session is ``attached``; after mapping the arena the client sends ``ready``.

    ``wants_tokens``: seals should name their tokens, which the operator has asked for in the event stream.
    """

    session: bytes
    lease_ms: int
    limits: Limits
    layout: Layout
    num_blocks: int
    arena: Handle
    publications: tuple[Publication, ...]
    publications_generation: int
    wants_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Extend the lease; ``progress`` counts the steps completed."""

    progress: int = 0


@dataclass(frozen=True, slots=True)
class Alive:
    """Reply to a heartbeat."""

    lease_ms: int
    publications_generation: int


@dataclass(frozen=True, slots=True)
class Detached:
    """Reply to detach: how many references came back."""

    references: int


# --- sequences -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allocate:
    """A block table for a sequence of ``tokens`` known tokens, all or nothing.

    ``digests`` is the tenant's chain over all full blocks of those tokens, from token 0. ``publication`` names a
    publication the tokens begin with ("" for none). ``reserve`` is the capacity wanted, in tokens (0: ``tokens``).
    With ``may_wait`` 1 nothing is reserved while another sequence is computing blocks that this one lacks: CLAIMED.
    ``list_generation`` is that of the list in which a publication was looked for (0: in none); RETRY if it moved.
    """

    sequence: int
    tenant: str
    tokens: int
    digests: Digests = b""
    publication: str = ""
    publication_generation: int = 0
    reserve: int = 0
    priority: int = 0
    may_wait: int = 0
    list_generation: int = 0


@dataclass(frozen=True, slots=True)
class Allocated:
    """``computed`` tokens need not be computed again (always fewer than asked). ``blocks`` is the whole table;
    ``copies`` are rows (copy id, src, dst, slots) to be done before the first write. On NO_SPACE nothing changed:
    ``missing`` blocks were lacking in ``scope`` for ``account``, and a retry pays after ``retry_after_ms`` (0: never).
    ``scrub`` blocks are to be zeroed first of all. On CLAIMED nothing changed: ``computed`` tokens are there, and
    another sequence is computing ``claimed`` (or the publication): ``wait``."""

    code: int
    computed: int = 0
    blocks: U32s = b""
    copies: Quads = b""
    claimed: Digests = b""
    scrub: U32s = b""
    missing: int = 0
    scope: str = ""
    retry_after_ms: int = 0
    account: str = ""


@dataclass(frozen=True, slots=True)
class Extend:
    """Capacity for ``tokens`` tokens in all, and write access to every slot from the fill mark on."""

    sequence: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Extended:
    """``blocks`` replace the table from index ``first`` on; ``copies`` as in ``Allocated``."""

    code: int
    first: int = 0
    blocks: U32s = b""
    copies: Quads = b""
    scrub: U32s = b""
    missing: int = 0
    scope: str = ""
    retry_after_ms: int = 0
    account: str = ""


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a ``sequence`` of a step's ``extends`` got nothing: the fields of a NO_SPACE in ``Extended``."""

    sequence: int
    missing: int
    scope: str
    retry_after_ms: int = 0
    account: str = ""


@dataclass(frozen=True, slots=True)
class Fork:
    """Children that share the parent's first ``tokens`` tokens (at most its fill mark), unfull tail included."""

    parent: int
    children: U32s
    tokens: int


@dataclass(frozen=True, slots=True)
class Forked:
    """Result of a fork; the children's tables equal the parent's up to the fork point."""

    code: int


@dataclass(frozen=True, slots=True)
class Seal:
    """Publish full, completely written blocks from table index ``first`` on under ``digests``.

    ``tokens`` of all these blocks, for the event stream: only if ``Attached.wants_tokens``.
    """

    sequence: int
    first: int
    digests: Digests
    tokens: U32s = b""


@dataclass(frozen=True, slots=True)
class Sealed:
    """``sealed`` blocks are now indexed. ``canonical`` rows (table index, block): another block already has that
    digest and is pinned until the session swaps to it or frees the sequence."""

    code: int
    sealed: int = 0
    canonical: Pairs = b""


@dataclass(frozen=True, slots=True)
class Free:
    """Give up sequences."""

    sequences: U32s


@dataclass(frozen=True, slots=True)
class Freed:
    """One code a sequence."""

    codes: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """The compound op: at most one a scheduler step. Sections are applied in the order of the fields.

    ``swaps``: rows (sequence, table index, canonical block; equal to the present block to decline); ``fills``: rows
    (sequence, acknowledged fill mark); ``completed``: rows (sequence, table index, fill mark), as a fill and then a
    seal of that block under its line of ``completed_digests``; ``extends``: rows (sequence, tokens).
    """

    releases: U32s = b""
    copies_done: U32s = b""
    swaps: Triples = b""
    fills: Pairs = b""
    seals: tuple[Seal, ...] = ()
    completed: Triples = b""
    completed_digests: Digests = b""
    forks: tuple[Fork, ...] = ()
    extends: Pairs = b""
    allocates: tuple[Allocate, ...] = ()

    def __post_init__(self) -> None:
        if len(self.completed) // 12 != len(self.completed_digests) // 32:
            raise ValueError("completed: each row has one digest in completed_digests")


@dataclass(frozen=True, slots=True)
class Stepped:
    """One result an item, in the order of the request; byte strings hold one code an item.

    ``canonical``: of ``completed``, rows (sequence, table index, block). Of ``extends``: ``blocks``, the new entries of
    the tables, as such rows; ``copies`` and ``scrub`` as in ``Allocated``; ``shortages``, one for each NO_SPACE.
    ``priorities``: rows (sequence, priority) of sequences for which something more urgent has begun to wait.
    """

    releases: bytes = b""
    copies_done: bytes = b""
    swaps: bytes = b""
    fills: bytes = b""
    seals: tuple[Sealed, ...] = ()
    completed: bytes = b""
    canonical: Triples = b""
    forks: tuple[Forked, ...] = ()
    extends: bytes = b""
    blocks: Triples = b""
    copies: Quads = b""
    scrub: U32s = b""
    shortages: tuple[Shortage, ...] = ()
    allocates: tuple[Allocated, ...] = ()
    publications_generation: int = 0
    priorities: Pairs = b""


# --- waiting -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """One deferred reply about what an allocate of ``sequence`` was told with CLAIMED: the last ``digest`` of it, or a
    pending ``publication``. It is sealed, this sequence's to compute, or late. The owner inherits ``priority``."""

    sequence: int
    digest: Digests = b""
    publication: str = ""
    priority: int = 0
    publication_generation: int = 0


@dataclass(frozen=True, slots=True)
class Waited:
    """``state``: sealed, yours, deadline. In any case: allocate again."""

    state: str


# --- reading -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Domain:
    """Ask for the digest key of a tenant's own domain, or of a ``group`` it belongs to (writable sessions only)."""

    tenant: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class DomainKey:
    """Key and generation of the domain; with a tenant's own, ``domains``: the shared domains the tenant may use and
    their generations."""

    key: bytes
    generation: int
    domains: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Publications:
    """Reply: the publications this session may use."""

    publications: tuple[Publication, ...]
    generation: int


@dataclass(frozen=True, slots=True)
class Lookup:
    """Which physical blocks hold this publication, or this chain of digests (longest sealed prefix)?"""

    publication: str = ""
    digests: Digests = b""


@dataclass(frozen=True, slots=True)
class Found:
    """Physical blocks with their reference counts; ``tokens`` they cover (a publication's tail is the last one)."""

    tokens: int
    blocks: U32s
    references: U32s


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session as ``stats`` shows it; ``state``: attached, ready, fenced. ``unsent``: replies it did not take."""

    name: str
    state: str
    pid: int
    sequences: int
    blocks: int
    progress: int
    lease_ms_left: int
    unsent: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """Reply to ``stats``: the kvstore's own counters."""

    boot: bytes
    version: str
    layout: Layout
    uptime_ms: int
    num_blocks: int
    blocks: dict[str, int]
    slots: dict[str, int]
    counters: dict[str, int]
    sessions: tuple[SessionInfo, ...]
    publications: tuple[Publication, ...] = ()
    ops: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Events:
    """Reply to ``events``: where the event stream is, and what it tells (PROTOCOL.md section 16)."""

    endpoint: str
    replay: str
    topic: str
    tokens: str
    hashes: str
