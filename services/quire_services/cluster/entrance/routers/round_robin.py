"""Round robin: the next node in turn. No program and no knowledge: what routers are measured against."""

from __future__ import annotations

from collections.abc import Sequence

from quire_services.cluster.entrance.members import EntranceNode

from .router import RouterAway


class RoundRobin:
    """Turns."""

    needs_tokens = False

    def __init__(self) -> None:
        self._names: list[str] = []
        self._turn = 0

    async def start(self, nodes: Sequence[EntranceNode]) -> None:
        """Begin with these."""
        await self.declare(nodes)

    async def declare(self, nodes: Sequence[EntranceNode]) -> None:
        """From now on there are these."""
        self._names = [node.name for node in nodes]

    async def choose(self, model: str, tokens: Sequence[int]) -> tuple[str, str]:  # noqa: ARG002 - any prompt
        """The next one. Raises RouterAway without any."""
        if not self._names:
            raise RouterAway("there are no nodes")
        self._turn += 1
        return self._names[self._turn % len(self._names)], ""

    async def done(self, ticket: str) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to end."""
