"""One arena of weights, or the claim to make it: what is noted of it, and how people are shown it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from quire_kvstore.host.arena import Arena
from quire_proto.messages.query import WeightsInfo
from quire_proto.weights.manifest import Manifest

WeightsUser = Hashable  # whatever names a process here


@dataclass(slots=True, eq=False)
class WeightsArena:
    """One arena, or the claim to make it.

    Attributes:
        memory: None before it is made.
        writer: who may write, until it is sealed; None then.
        users: processes that map it, or may.
        heard_ms: when the writer last said something; once no process maps it, since when.
        abandoned: no process is given it any more.
    """

    id: bytes
    key: bytes
    memory: Arena | None = None
    size: int = 0
    writer: WeightsUser | None = None
    users: set[WeightsUser] = field(default_factory=set)
    manifest: Manifest = field(default_factory=lambda: Manifest(0))
    sealed: bool = False
    heard_ms: int = 0
    hung: bool = False
    abandoned: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether it is sealed, and no process maps it."""
        return self.sealed and not self.users

    @property
    def state(self) -> str:
        """As it is shown."""
        if self.abandoned:
            return "abandoned"
        if self.is_idle:
            return "idle"
        return "sealed" if self.sealed else "claimed"


def row_of(arena: WeightsArena, waiting: int, pid_of: Callable[[WeightsUser], int], now_ms: int) -> WeightsInfo:
    """An arena for which so many processes wait, for people."""
    return WeightsInfo(
        key=arena.key,
        state=arena.state,
        arena=arena.memory.handle().type if arena.memory else "",
        size=arena.size if arena.memory else 0,
        tensors=len(arena.manifest.tensors),
        writer=pid_of(arena.writer) if arena.writer is not None else 0,
        readers=len(arena.users - {arena.writer}),
        waiting=waiting,
        idle_ms=max(0, now_ms - arena.heard_ms) if arena.is_idle else 0,
    )
