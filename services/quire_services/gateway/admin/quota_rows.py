"""Tenants over the admin API: what each account has and may have, and its quota. The kvstore decides, as for
``quire tenant``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from quire_kv import KVReader
from quire_services.config.loader import MAX_NUMBER

_T = TypeVar("_T")
BlockCount = Annotated[int, Field(ge=0, le=MAX_NUMBER)]


class QuotaBody(BaseModel):
    """``PUT /admin/tenants/{tenant}/quota``: all of it; what is left out takes its default."""

    model_config = ConfigDict(strict=True, extra="forbid")
    limit: BlockCount = 0
    guarantee: BlockCount = 0
    weight: BlockCount = 100


class Ask(Protocol):
    """Asks the kvstore, beside the loop; raises ApiError."""

    def __call__(self, question: Callable[[KVReader], _T]) -> Awaitable[_T]:
        """Its answer."""


def serve_quotas(app: FastAPI, ask: Ask) -> None:
    """Add the paths about tenants to the admin API."""

    @app.get("/admin/tenants")
    async def tenants() -> dict[str, Any]:
        rows = (await ask(lambda reader: reader.tenants())).tenants
        return {"object": "list", "data": [{"object": "tenant", **asdict(row)} for row in rows]}

    @app.put("/admin/tenants/{tenant}/quota")
    async def quota(tenant: str, body: QuotaBody) -> dict[str, Any]:
        row = await ask(
            lambda reader: reader.quota(tenant=tenant, limit=body.limit, guarantee=body.guarantee, weight=body.weight)
        )
        return {"object": "tenant", **asdict(row)}
