"""Members: the nodes behind an entrance, what each of them is fit for, and how much is open there.

A node is *serving*, or *draining* by an operator's word: it gets nothing new, and what is open there goes on.
The entrance asks each for its ``/health`` every second: one that does not say 200 gets nothing new, and one that has
not answered at all for ``LOST_S`` is lost, which ends what is open there (``Passage``). A machine that is switched off
closes no connection, so nothing else would.

Invariant: what is open at a node that leaves the list goes on; only a lost node ends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import httpx
import structlog

HEALTH_EVERY_S = 1.0
HEALTH_WAIT_S = 3.0
LOST_S = 10.0  # without any answer: a busy gateway may need seconds
NodeState = Literal["serving", "draining"]
log = structlog.get_logger()


def node_client() -> httpx.AsyncClient:
    """What speaks to nodes: through no proxy, on as many connections as there are requests."""
    return httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=256))


@dataclass(frozen=True, slots=True)
class EntranceNode:
    """A node as it is declared. ``url``: of its gateway, without a path."""

    name: str
    url: str
    state: NodeState = "serving"


class Member:
    """A node as the entrance sees it.

    Attributes:
        node: what is declared of it.
        fit: whether it said last that it serves; a new one is fit until it says otherwise.
        open: how many requests it has from here.
        heard: when it last answered anything (``time.monotonic``).
    """

    def __init__(self, node: EntranceNode) -> None:
        self.node = node
        self.fit, self.open, self.heard = True, 0, time.monotonic()
        self._limits: set[asyncio.Timeout] = set()

    @property
    def takes(self) -> bool:
        """Whether it is given anything new."""
        return self.fit and self.node.state == "serving"

    @property
    def word(self) -> str:
        """Its state in a word."""
        return self.node.state if self.fit else "away"

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a request while it is open here."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    @contextmanager
    def losing(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Let a limit run out when the node is lost."""
        self._limits.add(limit)
        try:
            yield
        finally:
            self._limits.discard(limit)

    def lose(self) -> None:
        """End what is open."""
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())


class Members:
    """All of them. ``client``: what their health is asked with."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._members: dict[str, Member] = {}
        self._gone: list[Member] = []  # out of the list, with something open

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def declare(self, nodes: Sequence[EntranceNode]) -> bool:
        """Take over a new list; whether a router must hear of it. One with another address is another node."""
        old, before = self._members, {(node.name, node.url) for node in self.serving()}
        self._members = {}
        for node in nodes:
            known = old.get(node.name)
            if known is None or known.node.url != node.url:
                known = Member(node)
            known.node = node
            self._members[node.name] = known
        kept = set(self._members.values())
        self._gone = [member for member in (*self._gone, *old.values()) if member not in kept and member.open]
        return {(node.name, node.url) for node in self.serving()} != before

    def serving(self) -> list[EntranceNode]:
        """The nodes that a router may choose, fit or not: it hears of their events in either case."""
        return [member.node for member in self if member.node.state == "serving"]

    def get(self, name: str) -> Member | None:
        """A member of this name."""
        return self._members.get(name)

    def least_busy(self, but: set[str]) -> Member | None:
        """The one with the least open of those that take something, ``but`` these; then of all that serve: a node
        may be back before its health was asked."""
        some = [m for m in self if m.takes and m.node.name not in but]
        some = some or [m for m in self if m.node.state == "serving" and m.node.name not in but]
        return min(some, key=lambda m: m.open, default=None)

    async def watch(self) -> None:
        """Ask all of them, for ever."""
        while True:
            self._gone = [member for member in self._gone if member.open]
            await asyncio.gather(*(self._ask(member) for member in (*self, *self._gone)))
            await asyncio.sleep(HEALTH_EVERY_S)

    async def _ask(self, member: Member) -> None:
        try:
            answer = await self._client.get(f"{member.node.url}/health", timeout=HEALTH_WAIT_S)
            fit, member.heard = answer.status_code == 200, time.monotonic()
        except httpx.HTTPError:
            fit = False
        if fit != member.fit:
            log.info("node", node=member.node.name, state="serves" if fit else "away")
        member.fit = fit
        if time.monotonic() - member.heard > LOST_S:
            member.lose()
