"""Bodies of the ops that declare which tenants share what: publish, unpublish, groups, join, leave.

Operators and tenants ask for them, rarely; engines do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire_proto.wire.arrays import U32s


@dataclass(frozen=True, slots=True)
class Publish:
    """Put a prompt into a share domain: for the operator, or for the ``tenant`` named, a member of that group."""

    id: str
    domain: str
    tokens: U32s
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """The record: its generation, its length in tokens, and its state."""

    generation: int
    tokens: int
    state: str


@dataclass(frozen=True, slots=True)
class Unpublish:
    """Stop new matches of a publication; ``tenant`` as in ``Publish``."""

    id: str
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Join:
    """Make a tenant a member of a group."""

    tenant: str
    group: str


@dataclass(frozen=True, slots=True)
class Leave:
    """End a tenant's membership of a group."""

    tenant: str
    group: str


@dataclass(frozen=True, slots=True)
class Member:
    """One tenant in one group; ``generation`` is that of the group's key."""

    group: str
    tenant: str
    generation: int


@dataclass(frozen=True, slots=True)
class Groups:
    """Every member of every group."""

    members: tuple[Member, ...]
