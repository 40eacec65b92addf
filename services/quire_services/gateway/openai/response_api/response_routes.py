"""Response routes: what clients ask of responses that are kept: one of them, its input, its end."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response

from quire_services.gateway.http.errors import ApiError, invalid

from .item_page import item_page
from .response_store import ResponseStore

_PATH = "/v1/responses/{response_id}"
_JSON = "application/json"


def add_response_routes(app: FastAPI, store: ResponseStore) -> None:
    """Add the routes."""

    @app.get(_PATH)
    async def retrieve(response_id: str, request: Request, stream: bool = False) -> Response:
        found = store.get(_tenant(request), response_id)
        if stream:
            raise invalid("'stream': a response that is kept is whole; leave 'stream' out", "stream")
        return Response(found.whole, media_type=_JSON)

    @app.delete(_PATH)
    async def delete(response_id: str, request: Request) -> dict[str, Any]:
        store.delete(_tenant(request), response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @app.post(_PATH + "/cancel")
    async def cancel(response_id: str, request: Request) -> None:
        store.get(_tenant(request), response_id)
        raise invalid("only a response in the background can be cancelled; hang up to end one that is under way")

    @app.get(_PATH + "/input_items")
    async def input_items(
        response_id: str,
        request: Request,
        after: str = "",
        order: Literal["asc", "desc"] = "desc",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """The items that the response was made of, those of the responses before it included."""
        texts = store.input_texts(_tenant(request), response_id)
        page = await item_page(texts, after, limit, newest_first=order == "desc")
        return Response(page, media_type=_JSON)

    @app.post("/v1/responses/{operation}", include_in_schema=False)
    async def other(operation: str) -> None:
        raise ApiError(
            404,
            f"'/v1/responses/{operation[:40]}' is not served",
            type="invalid_request_error",
            code="unsupported_api",
        )


def _tenant(request: Request) -> str:
    return str(request.scope["record"].tenant)
