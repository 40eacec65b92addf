"""Bodies of the ops that only ask: domain, publications, lookup, stats."""

from __future__ import annotations

from dataclasses import dataclass, field

from quire_proto.wire.arrays import Digests, U32s
from quire_proto.wire.histogram import Distribution
from quire_proto.wire.layout import Layout

from .session import Publication


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
class WeightsInfo:
    """One arena of weights as ``stats`` shows it; ``state``: claimed, sealed, idle (no process maps it), abandoned (its
    writer failed and may still map it)."""

    key: bytes
    state: str
    arena: str
    size: int
    tensors: int = 0
    writer: int = 0
    readers: int = 0
    waiting: int = 0
    idle_ms: int = 0


@dataclass(frozen=True, slots=True)
class AskStats:
    """Ask for ``stats``. ``brief``: without slots and without the tokens of publications, so that it takes the kvstore
    equally little time however large the pool and the prompts are."""

    brief: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """Reply to ``stats``: the kvstore's own counters. ``claims`` are open, ``waits`` wait for one of them.
    ``op_times``: seconds that executing each op has taken. ``weights``: arenas of weights on the GPU."""

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
    claims: int = 0
    waits: int = 0
    op_times: dict[str, Distribution] = field(default_factory=dict)
    weights: tuple[WeightsInfo, ...] = ()
