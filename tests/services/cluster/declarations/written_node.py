"""A node written out: what its admin API would say, in memory, and what it was told."""

from __future__ import annotations

from typing import Any

from quire_services.cluster.declarations.node_admin import NodeError
from quire_services.config.key_digests import keys_fingerprint

_QUOTA = {"limit": 0, "guarantee": 0, "weight": 100}


class WrittenNode:
    """Stands where a follower has a node's admin API.

    Attributes:
        keys, members, quotas, published: what is in force there.
        used: blocks that tenants hold and have cached.
        refuses: ids of prompts that it does not publish.
        word: what its follower said last; ``needs``: what it is told then.
        away: nothing listens there.
        told: writes, in order.
    """

    def __init__(self) -> None:
        self.version, self.keys = 0, dict[str, str]()
        self.members = set[tuple[str, str]]()
        self.quotas = dict[str, dict[str, int]]()
        self.published = dict[str, dict[str, Any]]()
        self.used = dict[str, tuple[int, int]]()
        self.refuses, self.away = set[str](), False
        self.told: list[str] = []
        self.word, self.needs = dict[str, Any](), dict[str, int]()

    def rows(self, *path: str) -> list[dict[str, Any]]:
        """The rows of a list."""
        self._listen()
        if path == ("groups",):
            return [{"group": group, "tenant": tenant} for group, tenant in sorted(self.members)]
        if path == ("publications",):
            return [{"id": name, "state": "ready", **row} for name, row in self.published.items()]
        assert path == ("tenants",)
        rows = []
        for name in sorted({*self.quotas, *self.used}):
            held, cached = self.used.get(name, (0, 0))
            rows.append({"tenant": name, "held": held, "cached": cached, **self.quotas.get(name, _QUOTA)})
        return rows

    def call(self, method: str, *path: str, body: Any = None, **_: object) -> Any:
        """One request."""
        self._listen()
        if (method, *path) == ("GET", "keys"):
            return {"version": self.version, "fingerprint": keys_fingerprint(self.keys)}
        if (method, *path) == ("PUT", "declarations"):
            self.word = body
            return {"needs": self.needs}
        self.told.append(" ".join((method, *path)))
        match (method, *path):
            case ("PUT", "keys"):
                self.version, self.keys = body["version"], {row["digest"]: row["tenant"] for row in body["keys"]}
            case ("PUT", "groups", group, "members", tenant):
                self.members.add((group, tenant))
            case ("DELETE", "groups", group, "members", tenant):
                self.members.discard((group, tenant))
            case ("PUT", "tenants", tenant, "quota"):
                self.quotas[tenant] = body
            case ("DELETE", "publications", name):
                del self.published[name]
            case ("POST", "publications"):
                if body["id"] in self.refuses:
                    raise NodeError("it is too long", 400)
                self.published[body["id"]] = {"domain": body["domain"], "system": body["system"]}
                return {"id": body["id"], "state": "ready", **self.published[body["id"]]}
            case _:
                raise AssertionError((method, *path))
        return {}

    def _listen(self) -> None:
        if self.away:
            raise NodeError("connection refused", gone=True)
