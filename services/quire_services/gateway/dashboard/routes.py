"""Routes of the dashboard, on the admin port.

    GET /                            the page and its parts: no secret in them, so no token is needed
    GET /admin/pool                  every block's cell, once
    GET /admin/pool/blocks/{block}   what holds a block
    GET /admin/overview              engines, sessions, tenants, counters, latencies, what happened
    GET /admin/live                  all of these as server-sent events: pool, away, overview, happened

The page asks for the admin token, keeps it in the tab (``sessionStorage``) and sends it in a header: it is in no
address, no cookie and no log. The pages run nothing but the script that comes with them (Content-Security-Policy).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from starlette.responses import StreamingResponse

from quire_kv import BadRequest, BlockInfo, QuireError
from quire_services.gateway.exposition.kvstore_answers import KvstoreAnswers
from quire_services.gateway.generate import Gateway
from quire_services.gateway.http.errors import invalid, unavailable
from quire_services.process.kvstore_call import kvstore_reader

from .happenings import Happenings
from .overview import overview
from .pool_feed import NO_KVSTORE, PICTURE_TIMEOUT_S, PoolFeed, Viewer, sse, whole_map

PAGE_DIR = Path(__file__).with_name("page")
PARTS = {"/": "index.html", "/dashboard.css": "dashboard.css", "/dashboard.js": "dashboard.js", "/pool.js": "pool.js"}
DASHBOARD_PATHS = frozenset({"/health", *PARTS})
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
OVERVIEW_S = 1.0
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def add_dashboard(
    app: FastAPI, gateway: Gateway, run_dir: Path, kvstore: KvstoreAnswers, happenings: Happenings
) -> None:
    """Add them to the admin API. ``happenings``: somebody lets it watch."""
    feed = PoolFeed(run_dir)
    for path, name in PARTS.items():
        app.add_api_route(path, partial(_part, name), methods=["GET"], include_in_schema=False)

    async def everything() -> dict[str, Any]:
        stats, tenants = await asyncio.gather(kvstore.stats(), kvstore.tenants())
        return overview(gateway, stats, tenants.tenants if tenants else ()) | {"deaths": happenings.deaths_as_json()}

    @app.get("/admin/pool")
    async def pool() -> dict[str, Any]:
        try:
            return await asyncio.to_thread(whole_map, run_dir)
        except (QuireError, OSError):
            raise unavailable(NO_KVSTORE) from None

    @app.get("/admin/pool/blocks/{block}")
    async def block(block: int) -> dict[str, Any]:
        return {"object": "block", **asdict(await asyncio.to_thread(_block, run_dir, block))}

    @app.get("/admin/overview")
    async def now() -> dict[str, Any]:
        return await everything() | {"happened": happenings.after(0)}

    @app.get("/admin/live")
    async def live() -> Response:
        feed.insist_on_room()
        events = _events(feed, gateway, happenings, everything)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )


async def _events(
    feed: PoolFeed, gateway: Gateway, happenings: Happenings, everything: Callable[[], Awaitable[dict[str, Any]]]
) -> AsyncIterator[bytes]:
    """The stream of one viewer, until it leaves or the gateway stops."""
    loop, told, next_overview = asyncio.get_running_loop(), 0, 0.0
    with feed.viewer() as viewer:
        while not gateway.engines.draining:
            if loop.time() >= next_overview:
                next_overview = loop.time() + OVERVIEW_S
                yield sse("overview", await everything())
                if lines := happenings.after(told):
                    told = lines[-1]["number"]
                    yield sse("happened", {"lines": lines})
            for event in await _news(feed, viewer, next_overview - loop.time()):
                yield event


async def _part(name: str) -> Response:
    file = PAGE_DIR / name
    kind = f"{TYPES[file.suffix]}; charset=utf-8"
    return Response(await asyncio.to_thread(file.read_bytes), headers={**PAGE_HEADERS, "content-type": kind})


async def _news(feed: PoolFeed, viewer: Viewer, wait_s: float) -> list[bytes]:
    """What is new of the pool, after waiting for it; empty if nothing is."""
    with suppress(TimeoutError):
        await asyncio.wait_for(viewer.news.wait(), max(wait_s, 0.001))
        return await feed.events(viewer)
    return []


def _block(run_dir: Path, block: int) -> BlockInfo:
    try:
        with kvstore_reader(run_dir, PICTURE_TIMEOUT_S) as reader:
            return reader.block(block)
    except BadRequest as error:
        raise invalid(error.message, "block") from None
    except (QuireError, OSError):
        raise unavailable(NO_KVSTORE) from None
