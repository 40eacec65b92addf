"""Groups: which tenants may use which share domain besides ``public`` and their own.

A tenant is a member because the configuration says so (*declared*) or because a peer with the right to let it join
did so while the kvstore ran (*joined*). Both are declarations: they live through restarts, and what was the case when
the kvstore last ran is remembered, so that a member that the configuration no longer names has left, too.

A tenant that leaves takes the present key of the group along: leaving bumps the group's generation. From then on
neither the key nor the publications are called what the former member knew them by.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

PUBLIC = "public"
# What a share domain's and the quarantine's account are called: no group may be.
RESERVED = (PUBLIC, "quarantine")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIRST_GENERATION = 1

Member = tuple[str, str]  # (group, tenant)


def is_name(name: str) -> bool:
    """Whether a tenant, a group or a publication may be called so: 1 to 64 letters, digits or ``._-``."""
    return NAME_PATTERN.fullmatch(name) is not None


def is_group(name: str) -> bool:
    """Whether a group may be called so: a name that no other account has."""
    return is_name(name) and name not in RESERVED


class Groups:
    """Members and generations of all groups.

    Attributes:
        declared: members by configuration.
        joined: members that joined while a kvstore ran.
    """

    def __init__(self, declared: Iterable[Member] = (), joined: Iterable[Member] = ()) -> None:
        self.declared, self.joined = frozenset(declared), set(joined)
        self._generations: dict[str, int] = {}
        self._of_tenant: dict[str, set[str]] = {}
        for group, tenant in self.members():
            self._of_tenant.setdefault(tenant, set()).add(group)

    def members(self) -> list[Member]:
        """Every (group, tenant), in order."""
        return sorted(self.declared | self.joined)

    def entitled(self, tenant: str, domain: str) -> bool:
        """Whether a tenant may use what is published in a domain."""
        return domain == PUBLIC or domain in self._of_tenant.get(tenant, ())

    def domains(self, tenant: str) -> dict[str, int]:
        """The shared domains a tenant may use, with their generations."""
        names = sorted({PUBLIC, *self._of_tenant.get(tenant, ())})
        return {name: self.generation(name) for name in names}

    def has_members(self, group: str) -> bool:
        """Whether a group exists."""
        return any(group in groups for groups in self._of_tenant.values())

    def generation(self, domain: str) -> int:
        """Generation of a domain's key."""
        return self._generations.get(domain, FIRST_GENERATION)

    def join(self, tenant: str, group: str) -> None:
        """Make a tenant a member."""
        self.joined.add((group, tenant))
        self._of_tenant.setdefault(tenant, set()).add(group)

    def leave(self, tenant: str, group: str) -> None:
        """End a membership that was not declared."""
        assert (group, tenant) not in self.declared, "a declared membership ends in the configuration"
        self.joined.discard((group, tenant))
        self._of_tenant[tenant].discard(group)
        self._left(group)

    def _left(self, group: str) -> None:
        self._generations[group] = self.generation(group) + 1

    def copy(self) -> Groups:
        """The same groups, to be changed apart from these."""
        twin = Groups(self.declared, self.joined)
        twin._generations = dict(self._generations)
        return twin

    def document(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "joined": sorted(map(list, self.joined)),
            "members": list(map(list, self.members())),
            "generations": self._generations,
        }

    @classmethod
    def restored(cls, document: dict[str, Any], declared: Iterable[Member]) -> Groups:
        """The groups of a document and of the present configuration; a tenant that is a member no more has left.

        Raises ValueError for a document that is not one.
        """
        groups = cls(declared, _pairs(document.get("joined")))
        generations = document.get("generations")
        if not isinstance(generations, dict) or not all(type(n) is int and n > 0 for n in generations.values()):
            raise ValueError("generations: not a map of whole numbers")
        groups._generations = generations
        for group in {group for group, _ in set(_pairs(document.get("members"))) - set(groups.members())}:
            groups._left(group)
        return groups


def _pairs(rows: object) -> list[Member]:
    if not isinstance(rows, list):
        raise ValueError("members: not a list")
    for row in rows:
        if not isinstance(row, list) or len(row) != 2 or not all(isinstance(n, str) for n in row):
            raise ValueError(f"members: {row!r} is not a group and a tenant")
        if not is_group(row[0]) or not is_name(row[1]):
            raise ValueError(f"members: {row!r} is not a group and a tenant: see which names are reserved")
    return [(group, tenant) for group, tenant in rows]
