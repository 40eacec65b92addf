"""Routes of metrics: a page for each process, and the list of them for Prometheus' service discovery over HTTP.

    /metrics                   the gateway, and the engines as vLLM would show them
    /metrics/engines/{name}    what only our engines have; 404 when it is not connected, so that its target is down
    /metrics/kvstore           the kvstore; 503 when it does not answer
    /metrics/tenants           the operator's alone, on the admin port
    /metrics/targets           all of these, as targets

Engines and kvstore have no port of their own. An engine's figures come with its reports, the kvstore's are asked for:
their threads have better things to do than HTTP.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response

from quire_services.gateway.exposition.access import METRICS_PATH
from quire_services.gateway.exposition.engine_readings import engine_readings
from quire_services.gateway.exposition.gateway_readings import gateway_readings
from quire_services.gateway.exposition.kvstore_answers import KvstoreAnswers
from quire_services.gateway.exposition.kvstore_readings import kvstore_readings, tenant_readings
from quire_services.gateway.exposition.readings import CONTENT_TYPE, Readings
from quire_services.gateway.generate import Gateway
from quire_services.gateway.http.errors import ApiError, unavailable


def add_metrics_routes(
    app: FastAPI, gateway: Gateway, kvstore: KvstoreAnswers, instance: str, *, tenants: bool = False
) -> None:
    """Add them; ``tenants``: the operator's own, too."""

    @app.get(METRICS_PATH, include_in_schema=False)
    async def of_gateway() -> Response:
        return await _page(gateway_readings(gateway, instance, await kvstore.stats()))

    @app.get(METRICS_PATH + "/engines/{name:path}", include_in_schema=False)
    async def of_engine(name: str) -> Response:
        for engine in gateway.engines.connected():
            if engine.hello.engine == name:
                return await _page(engine_readings(engine))
        raise ApiError(404, f"no engine {name[:80]!r} is connected", type="invalid_request_error", code="not_found")

    @app.get(METRICS_PATH + "/kvstore", include_in_schema=False)
    async def of_kvstore() -> Response:
        stats = await kvstore.stats()
        if stats is None:
            raise unavailable("no kvstore answers")
        return await _page(kvstore_readings(stats))

    @app.get(METRICS_PATH + "/targets", include_in_schema=False)
    async def targets(request: Request) -> list[dict[str, Any]]:
        engines = [f"/engines/{quote(engine.hello.engine, safe='')}" for engine in gateway.engines.connected()]
        pages = ["", "/kvstore", *(["/tenants"] if tenants else []), *engines]
        return [_target(request.headers.get("host", ""), page) for page in pages]

    if tenants:

        @app.get(METRICS_PATH + "/tenants", include_in_schema=False)
        async def of_tenants() -> Response:
            found = await kvstore.tenants()
            if found is None:
                raise unavailable("no kvstore answers")
            return await _page(tenant_readings(found.tenants, gateway.follower.shares))


async def _page(readings: Readings) -> Response:
    return Response(await readings.text(), headers={"content-type": CONTENT_TYPE})


def _target(host: str, page: str) -> dict[str, Any]:
    process = page.rpartition("/")[2] or "gateway"
    return {"targets": [host], "labels": {"__metrics_path__": METRICS_PATH + page, "process": process}}
