"""Request bytes: how a body comes in, within bounds of size, memory and time.

A short body is simply received. A longer one first takes its length out of a budget that all bodies in flight share, a
tenant at most half of it, and is not received until it has it: the connection's own buffers fill and the client waits.
So bodies in flight never take more memory than the budget and the short ones, however many are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request

from quire_services.config.settings import MAX_BODY_BYTES
from quire_services.gateway.http.errors import ApiError, ClientGone, body_too_large
from quire_services.gateway.turns.shares import Shares

SHORT_BODY_BYTES = 16384  # received and read at once
BODY_BUDGET = 64 << 20
MIN_BODY_RATE = 64 << 10  # bytes a second, beyond the first seconds
BODY_GRACE_S = 30.0
MAX_WAITING_BODIES = 64
BUDGET_WAIT_S = 30.0
BODY_BYTES_PER_TOKEN, MIN_BODY_LIMIT = 64, 4 << 20  # of the default limit of a body


def default_limit(max_model_len: int) -> int:
    """Bytes that a body may have if nothing is configured: ample for a prompt of the model's length."""
    return min(max(BODY_BYTES_PER_TOKEN * max_model_len, MIN_BODY_LIMIT), MAX_BODY_BYTES)


class RequestBytes:
    """Receives bodies."""

    def __init__(self) -> None:
        self._budget = Shares(BODY_BUDGET, BODY_BUDGET // 2, most_waiting=MAX_WAITING_BODIES, wait_s=BUDGET_WAIT_S)

    @asynccontextmanager
    async def of(self, request: Request, tenant: str, limit: Callable[[], int]) -> AsyncIterator[bytearray]:
        """A request's body, which is counted until the end of the block. Raises ApiError and ClientGone."""
        length, body = int(request.headers.get("content-length") or -1), bytearray()
        if length > SHORT_BODY_BYTES and length > limit():
            raise _too_large(limit())
        complete = await _receive(request, body, SHORT_BODY_BYTES)
        if complete and len(body) <= SHORT_BODY_BYTES:
            yield body
            return
        most = limit()
        amount = max(length, len(body)) if length >= 0 or complete else most
        async with self._budget.of(tenant, amount):
            try:
                async with asyncio.timeout(BODY_GRACE_S + amount / MIN_BODY_RATE):
                    complete = complete or await _receive(request, body, amount)
            except TimeoutError:
                raise ApiError(
                    408, "the body came too slowly", type="invalid_request_error", code="body_too_slow"
                ) from None
            if not complete or len(body) > most:
                raise _too_large(most)
            yield body


async def _receive(request: Request, body: bytearray, most: int) -> bool:
    """Receive until there are more than ``most`` bytes or the body is complete; whether it is."""
    while len(body) <= most:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return True
    return False


def _too_large(most: int) -> ApiError:
    return body_too_large(f"the body is larger than {most} bytes")
