"""Dynamo's selection service (``python -m dynamo.select_service`` of ai-dynamo-runtime): it only says which node.

It is told of each node by what the node says of itself: where its events are, how large its blocks. It counts what is
under way by reservations, one a request, which are freed when the request is over. A node that cannot be asked yet is
told of when it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import structlog

from quire_services.cluster.entrance.members import EntranceNode
from quire_services.process.port_check import free_local_port

from .node_facts import NodeFacts, ask_facts
from .router import RouterAway, RouterSettings
from .router_process import RouterProcess

SELECTION_S = 2.0
AGAIN_S = 1.0
BATCH_TOKENS = 512  # of a node's step: it weighs prompts against what is under way by it
log = structlog.get_logger()


class DynamoSelection:
    """The service and what it was told."""

    needs_tokens = True

    def __init__(self, settings: RouterSettings) -> None:
        self._client, port = settings.client, free_local_port()
        self._url = f"http://127.0.0.1:{port}"
        command = ("-m", "dynamo.select_service", "--port", str(port), "--threads", "1")
        self._process = RouterProcess(settings, command, f"{self._url}/health", self._tell_all)
        self._names: dict[int, str] = {}
        self._nodes: list[EntranceNode] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._told: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._model = ""

    async def start(self, nodes: Sequence[EntranceNode]) -> None:
        """Begin with these nodes."""
        self._nodes = list(nodes)
        await self._process.start()

    async def declare(self, nodes: Sequence[EntranceNode]) -> None:
        """Tell it of those that came, and take away those that left."""
        self._nodes = list(nodes)
        wanted = {self._number(node) for node in nodes}
        for number in self._told - wanted:
            await self._delete(number)
        self._told &= wanted
        self._tell_soon()

    async def choose(self, model: str, tokens: Sequence[int]) -> tuple[str, str]:  # noqa: ARG002 - one model
        """What it selects, and the reservation."""
        if not self._process.answers or not self._told:
            raise RouterAway("it knows no node yet")
        body = {"model_name": self._model, "token_ids": list(tokens)}
        try:
            answer = await self._client.post(f"{self._url}/select_and_reserve", json=body, timeout=SELECTION_S)
            said = answer.json()
            return self._names[said["worker_id"]], str(said["selection_id"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise RouterAway(f"{type(error).__name__}: {error}") from error

    async def done(self, ticket: str) -> None:
        """Free the reservation."""
        try:
            await self._client.delete(f"{self._url}/reservations/{ticket}", timeout=SELECTION_S)
        except httpx.HTTPError as error:
            log.warning("reservation_kept", reason=str(error))

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
        await self._process.close()

    def _number(self, node: EntranceNode) -> int:
        number = self._numbers.setdefault((node.name, node.url), len(self._numbers))
        self._names[number] = node.name
        return number

    async def _tell_all(self) -> None:
        """A new process knows nothing."""
        self._told = set()
        await self._tell_once()
        self._tell_soon()

    def _tell_soon(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        while not await self._tell_once():
            await asyncio.sleep(AGAIN_S)

    async def _tell_once(self) -> bool:
        """Tell of all nodes that are not told of and can be; whether that is all."""
        for node in self._nodes:
            if (number := self._number(node)) in self._told:
                continue
            try:
                facts = await ask_facts(self._client, node)
                answer = await self._client.post(f"{self._url}/workers", json=_worker(number, node, facts))
                answer.raise_for_status()
            except (httpx.HTTPError, RouterAway) as error:
                log.warning("node_not_told", node=node.name, reason=str(error))
                continue
            self._model = facts.model
            self._told.add(number)
        return {self._number(node) for node in self._nodes} <= self._told

    async def _delete(self, number: int) -> None:
        try:
            await self._client.delete(f"{self._url}/workers/{number}", timeout=SELECTION_S)
        except httpx.HTTPError as error:
            log.warning("node_kept", reason=str(error))


def _worker(number: int, node: EntranceNode, facts: NodeFacts) -> dict[str, Any]:
    return {
        "worker_id": number,
        "model_name": facts.model,
        "endpoint": node.url,
        "kv_events_endpoints": {"0": facts.events},
        "replay_endpoint": facts.replay,
        "block_size": facts.block_size,
        "max_num_batched_tokens": BATCH_TOKENS,
    }
