"""Hold: requests that wait for an engine that is expected.

An engine that was killed is back after some seconds, and the usual client has given up by then; engines come some
seconds after their gateway. So a request that comes while no engine can be given work waits for one, if there was one a
short time ago or the gateway has just started, and nothing is sent of its answer: when it has waited long enough it
still gets a status. All go on together; whose turn it is then is for others to say.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from quire_services.gateway.awake_clock import clock

EXPECTED_S = 60.0  # after the start, or an engine was last heard of that had come or could be given work


class Hold:
    """The requests that wait at one gateway.

    Args:
        hold_s: how long each waits at most.

    Attributes:
        waiting: how many of each tenant.
    """

    def __init__(self, hold_s: float) -> None:
        self.waiting = Counter[str]()
        self._hold_s = hold_s
        self._seen = clock.now()
        self._change = asyncio.Event()

    def expects(self) -> bool:
        """Whether it makes sense to wait."""
        return self._hold_s > 0 and clock.now() - self._seen < EXPECTED_S

    def seen(self) -> None:
        """An engine has come, or can be given work now."""
        self._seen = clock.now()
        self.changed()

    def changed(self) -> None:
        """Let those that wait look again."""
        if self.waiting:
            self._change.set()
            self._change.clear()

    async def wait(self, tenant: str, over: Callable[[], bool]) -> None:
        """Wait until ``over``, for as long as a request may."""
        self.waiting[tenant] += 1
        try:
            async with asyncio.timeout(self._hold_s):
                while not over():
                    await self._change.wait()
        except TimeoutError:
            pass
        finally:
            self.waiting[tenant] -= 1
            if not self.waiting[tenant]:
                del self.waiting[tenant]
