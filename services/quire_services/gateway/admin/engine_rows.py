"""Engines over the admin API: what each does, and that one gets nothing new and hands over what it has."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from quire_services.gateway.engines import Engines
from quire_services.gateway.link.engine import Engine


class DrainBody(BaseModel):
    """``POST /admin/engines/{name}/drain``. ``force``: also if no other engine can take its requests."""

    model_config = ConfigDict(strict=True, extra="forbid")
    force: bool = False


def serve_engines(app: FastAPI, engines: Engines) -> None:
    """Add the paths about engines to the admin API."""

    @app.get("/admin/engines")
    async def listed() -> dict[str, Any]:
        return {"object": "list", "data": [engine_row(engine) for engine in engines.all()]}

    @app.post("/admin/engines/{name}/drain")
    async def drain(name: str, body: DrainBody | None = None) -> dict[str, Any]:
        return engine_row(engines.drain_engine(name, body is not None and body.force))

    @app.post("/admin/engines/{name}/undrain")
    async def undrain(name: str) -> dict[str, Any]:
        return engine_row(engines.undrain_engine(name))


def engine_row(engine: Engine) -> dict[str, Any]:
    """An engine as the API shows it. ``sequences``: continuations that it works on for the gateway."""
    load = engine.load
    return {
        "object": "engine",
        "name": engine.hello.engine,
        "pid": engine.hello.pid,
        "state": engine.why_not() or "ready",
        "role": engine.hello.role,
        "session": load.session.hex() if load else "",
        "sequences": sum(len(attempt.open) for attempt in engine.attempts.values()),
        "running": load.running if load else 0,
        "waiting": load.waiting if load else 0,
        "free_slots": max(0, engine.free_slots),
        "tokens_per_s": round(engine.tokens_per_s, 1),
        "since": round(engine.since),
        "counters": dict(load.counters) if load else {},
    }
