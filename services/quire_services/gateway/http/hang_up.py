"""A client that hangs up: noticed while its request is being read or answered, because nothing else would end the work.

ASGI delivers it as a message on the request's ``receive``, after all of its body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from .errors import ClientGone

CLIENT_GONE = 499  # the status of such a request in the access log; no client reads it
_T = TypeVar("_T")


async def hang_up(receive: Receive) -> None:
    """Return when the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def until_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """What ``work`` comes to; it is cancelled when the client hangs up. Raises ClientGone then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hang_up(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
