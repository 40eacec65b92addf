"""Bursts: no request waits for all others that arrive in the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from quire_services.gateway.counters import Counters
from quire_services.gateway.edge import ARRIVALS_AT_ONCE, Edge

BURST = 50


def scope(tenant: str) -> Scope:
    """A request of a tenant."""
    return {"type": "http", "method": "GET", "path": "/v1/models", "headers": [(b"tenant", tenant.encode())]}


def tenant_of(headers: Headers) -> str:
    """The tenant that a request names."""
    return headers["tenant"]


async def nothing(*_: Any) -> Message:
    """Neither takes nor gives anything."""
    return {"type": "http.request", "body": b""}


async def begins(tenants: list[str]) -> list[tuple[int, str]]:
    """Of each request, as they begin: how often the loop had looked at the sockets before, and the tenant."""
    loop, begun, looks, going = asyncio.get_running_loop(), [], 0, True

    def look() -> None:
        nonlocal looks
        looks += 1
        if going:
            loop.call_soon(look)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append((looks, scope["record"].tenant))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    edge = Edge(app, tenant_of, Counters())
    look()
    call: Callable[[str], Awaitable[None]] = lambda tenant: edge(scope(tenant), nothing, nothing)  # noqa: E731
    await asyncio.gather(*map(call, tenants))
    going = False
    return begun


@pytest.mark.source("ROCm/ATOM#1912")
def test_between_two_looks_at_the_sockets_one_request_begins() -> None:
    """However many arrive at once, the loop can serve all others after each of them."""
    begun = asyncio.run(begins(["a"] * BURST))
    assert len({looks for looks, _ in begun}) == BURST


@pytest.mark.source("ROCm/ATOM#1912")
def test_the_next_to_begin_is_another_tenants() -> None:
    """A request of another tenant waits until the burst before it has been looked at, not until it was served."""
    begun = asyncio.run(begins(["a"] * BURST + ["b"]))
    assert [tenant for _, tenant in begun].index("b") <= BURST // ARRIVALS_AT_ONCE + 2
