"""What a router is to the entrance: told of nodes, asked where a prompt should go, told when that request is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from quire_services.cluster.entrance.members import EntranceNode


class RouterAway(Exception):
    """The router does not answer, or with nothing that can be used; the message says what."""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What routers are made of.

    Attributes:
        program: the router's program, or for a module the Python that has it.
        log: what it says goes there.
        client: asks nodes and the router itself.
    """

    program: Path
    log: Path
    client: httpx.AsyncClient


class Router(Protocol):
    """A router.

    Attributes:
        needs_tokens: whether ``choose`` wants a prompt's tokens.
    """

    needs_tokens: bool

    async def start(self, nodes: Sequence[EntranceNode]) -> None:
        """Begin with these nodes. Raises StartError where the program cannot run."""

    async def declare(self, nodes: Sequence[EntranceNode]) -> None:
        """From now on there are these."""

    async def choose(self, model: str, tokens: Sequence[int]) -> tuple[str, str]:
        """The node that this prompt should go to, and a ticket for ``done``. Raises RouterAway."""

    async def done(self, ticket: str) -> None:
        """A request is over, whatever came of it. Never raises."""

    async def close(self) -> None:
        """End it, and what it started."""
