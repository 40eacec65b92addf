"""Shares: a quantity that tenants take parts of, and wait for in turn.

One tenant may hold at most ``each`` of the ``total``. A request waits behind the others of its tenant; tenants take
turns. When it is a tenant's turn and only the total is short, all wait until there is enough for it: a large part is
not overtaken for ever by small ones.

Invariants: what is held never exceeds ``total``, nor a tenant's ``each``; a tenant is in ``_waiting`` only while
one of its waits. One event loop, no locks.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from quire_services.gateway.http.errors import queue_full, unavailable

Waiter = tuple[int, "asyncio.Future[None]"]


class Shares:
    """Parts of ``total``.

    Args:
        total, each: bounds, in whatever is shared; no part may be larger than ``each``.
        most_waiting: of one tenant; more are answered 429.
        wait_s: how long one waits at most; then it is answered 503.
    """

    def __init__(self, total: int, each: int, *, most_waiting: int, wait_s: float) -> None:
        self._free, self._each = total, each
        self._most_waiting, self._wait_s = most_waiting, wait_s
        self._held: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[Waiter]] = OrderedDict()

    @asynccontextmanager
    async def of(self, tenant: str, amount: int = 1) -> AsyncIterator[None]:
        """Hold a part. Raises ApiError 429 or 503 if there is none."""
        await self.acquire(tenant, amount)
        try:
            yield
        finally:
            self.release(tenant, amount)

    async def acquire(self, tenant: str, amount: int) -> None:
        """Take a part, in turn."""
        assert amount <= self._each
        if not self._waiting and self._fits(tenant, amount):
            self._grant(tenant, amount)
            return
        queue = self._waiting.setdefault(tenant, deque())
        if len(queue) >= self._most_waiting:
            raise queue_full("too many requests of this tenant wait to be read")
        waiter: Waiter = (amount, asyncio.get_running_loop().create_future())
        queue.append(waiter)
        self._serve()
        try:
            async with asyncio.timeout(self._wait_s):
                await waiter[1]
        except BaseException as error:
            self._leave(tenant, waiter)
            if isinstance(error, TimeoutError):
                raise unavailable("too many long requests are being read; try again later") from None
            raise

    def release(self, tenant: str, amount: int) -> None:
        """Give a part back."""
        self._free += amount
        self._held[tenant] -= amount
        if not self._held[tenant]:
            del self._held[tenant]
        self._serve()

    def _leave(self, tenant: str, waiter: Waiter) -> None:
        if waiter[1].done() and not waiter[1].cancelled():  # granted in the same moment
            self.release(tenant, waiter[0])
            return
        queue = self._waiting.get(tenant, deque())
        if waiter in queue:  # its turn may have come after it was cancelled
            queue.remove(waiter)
            if not queue:
                del self._waiting[tenant]
        self._serve()

    def _serve(self) -> None:
        """Grant what fits, tenant by tenant, beginning with the one whose last turn is longest ago."""
        while self._waiting:
            for tenant, queue in self._waiting.items():
                amount, future = queue[0]
                if self._held[tenant] + amount <= self._each:
                    break
            else:
                return  # each waits for its own
            if amount > self._free and not future.done():
                return
            queue.popleft()
            if not future.done():  # else it was cancelled, and has not woken up yet
                self._waiting.move_to_end(tenant)
                self._grant(tenant, amount)
                future.set_result(None)
            if not queue:
                del self._waiting[tenant]

    def _fits(self, tenant: str, amount: int) -> bool:
        return amount <= self._free and self._held[tenant] + amount <= self._each

    def _grant(self, tenant: str, amount: int) -> None:
        self._free -= amount
        self._held[tenant] += amount
