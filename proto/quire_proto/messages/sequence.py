"""Bodies about sequences: a table, more of it, children, names for full blocks, the end; and waiting for another."""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.wire.arrays import Digests, Pairs, Quads, U32s


@dataclass(frozen=True, slots=True)
class Allocate:
    """A block table for a sequence of ``tokens`` known tokens, all or nothing.

    ``digests`` is the tenant's chain over all full blocks of those tokens, from token 0. ``publication`` names a
    publication the tokens begin with ("" for none). ``reserve`` is the capacity wanted, in tokens (0: ``tokens``).
    With ``may_wait`` 1 nothing is reserved while another sequence is computing blocks that this one lacks: CLAIMED.
    ``list_generation`` is that of the list in which a publication was looked for (0: in none); RETRY if it moved.
    ``trace`` is the traceparent of what asks for it, if that is traced.
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
    trace: str = ""


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
