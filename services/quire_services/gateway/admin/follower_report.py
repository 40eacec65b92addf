"""A node's follower of declarations over the admin API: how far it is, each second, for metrics; and what it must
claim for requests that were too large for this node's shares."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from quire_services.config.loader import MAX_NUMBER
from quire_services.gateway.turns.follower_word import FOLLOWER_PATH, FollowerWord

Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]


class FollowerBody(BaseModel):
    """``PUT /admin/declarations``: all of it, each time."""

    model_config = ConfigDict(strict=True, extra="forbid")
    version: Annotated[int, Field(ge=0, lt=1 << 63)]
    look_age_s: Annotated[float, Field(ge=0)] | None = None
    failures: dict[str, Count] = {}
    shares: dict[str, Count] = {}
    most: dict[str, Count] = {}
    beat_s: Annotated[float, Field(gt=0)] = 1.0


def serve_follower(app: FastAPI, word: FollowerWord) -> None:
    """Add the path to the admin API."""

    @app.put(FOLLOWER_PATH)
    async def report(body: FollowerBody) -> dict[str, Any]:
        word.said, word.version, word.failures = True, body.version, body.failures
        word.shares, word.most, word.beat_s = body.shares, body.most, body.beat_s
        word.looked(body.look_age_s)
        return {"object": "declarations", "needs": word.needs()}
