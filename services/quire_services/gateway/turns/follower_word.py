"""What this node's follower of declarations has said last, and what it is told in return.

The follower has no port, and is scraped here. It says how far it is each second; when it says nothing any more, the age
of its last look goes on growing. The other way go needs: a request that was more than this node's share of its tenant's
limit, and not more than one node of the cluster can have, is a claim on the other nodes' shares. The follower makes it,
and the client is told when to come again. A claim that is not renewed by then lapses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

FOLLOWER_PATH = "/admin/declarations"
CLAIM_BEATS, CLAIM_SPARE_S = 3, 2.0  # it is said in one beat, others lower their shares in the next, we raise ours
CLAIM_TRIES = 3  # of a client that comes when it was told to


@dataclass(slots=True)
class FollowerWord:
    """Its word.

    Attributes:
        said: whether there was one; there is none on a node that follows no store.
        version: of the declarations that are in force here, 0 for none.
        failures: since it started, by what failed.
        shares: blocks that this node has of limits of the cluster, by tenant.
        most: blocks that it could have of them at most.
        beat_s: between two moves of shares.
    """

    said: bool = False
    version: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)
    beat_s: float = 1.0
    _looked: float | None = None
    _needs: dict[str, tuple[int, float]] = field(default_factory=dict)

    def looked(self, age_s: float | None) -> None:
        """The store was read last so many seconds ago; None: it never was."""
        self._looked = None if age_s is None else time.monotonic() - age_s

    def look_age_s(self) -> float | None:
        """Seconds since the store was read last."""
        return None if self._looked is None else time.monotonic() - self._looked

    def claim(self, tenant: str, missing: int) -> int:
        """A request is ``missing`` blocks more than this node's share: in how many seconds it may fit, 0 for never."""
        need = max(1, self.shares.get(tenant, 0)) + missing
        if need > self.most.get(tenant, 0):
            return 0
        again_s = math.ceil(CLAIM_BEATS * self.beat_s + CLAIM_SPARE_S)
        self._needs[tenant] = max(need, self.needs().get(tenant, 0)), time.monotonic() + CLAIM_TRIES * again_s
        return again_s

    def needs(self) -> dict[str, int]:
        """Blocks that tenants need here at once, as far as that has not lapsed."""
        now = time.monotonic()
        self._needs = {tenant: (need, until) for tenant, (need, until) in self._needs.items() if until > now}
        return {tenant: need for tenant, (need, _) in self._needs.items()}
