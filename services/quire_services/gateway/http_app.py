"""Routes of the gateway and the mapping of every error to the shape of its API, OpenAI's or Anthropic's.

Only what HTTP is about is here: paths, bodies, statuses. What a request does is in ``generate``; what it may ask for,
and what is logged of it, in ``edge``.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import Scope

from quire_proto import __version__
from quire_services.gateway.anthropic.api_errors import error_body, is_messages
from quire_services.gateway.anthropic.bodies import MessagesBody, PromptBody
from quire_services.gateway.anthropic.model_list import model_info, model_page
from quire_services.gateway.exposition.kvstore_answers import KvstoreAnswers
from quire_services.gateway.http.errors import ApiError, ClientGone, invalid, unknown_model
from quire_services.gateway.http.hang_up import CLIENT_GONE
from quire_services.gateway.openai.bodies import ChatBody, CompletionBody
from quire_services.gateway.openai.json_body import validation_error
from quire_services.gateway.openai.response_api.response_body import ResponseBody
from quire_services.gateway.openai.response_api.response_routes import add_response_routes
from quire_services.gateway.readers.prompt_answers import DetokenizeBody, TokenizeBody
from quire_services.gateway.routes.for_routers import add_router_routes
from quire_services.gateway.routes.metrics import add_metrics_routes
from quire_services.gateway.routes.prompts import add_prompt_routes
from quire_services.gateway.routes.unserved import add_unserved_routes

from .generate import Gateway

_SCHEMAS = "#/components/schemas/"
_BODIES: list[type[BaseModel]] = [
    ChatBody, CompletionBody, MessagesBody, PromptBody, ResponseBody, TokenizeBody, DetokenizeBody,
]  # fmt: skip


def make_app(gateway: Gateway, instance: str = "", kvstore: KvstoreAnswers | None = None) -> FastAPI:
    """The application, without its edge; ``instance`` is what /health calls it, ``kvstore`` answers for metrics, if
    there are some."""
    app = FastAPI(title="Quire", version=__version__, redoc_url=None)
    map_errors(app)
    _generation_routes(app, gateway)
    add_prompt_routes(app, gateway, _takes)
    add_response_routes(app, gateway.stored)
    add_unserved_routes(app)
    _information_routes(app, gateway, instance)
    if kvstore is not None:
        add_metrics_routes(app, gateway, kvstore, instance)
        add_router_routes(app, gateway, kvstore, instance)
    _describe_bodies(app)
    return app


def map_errors(app: FastAPI) -> None:
    """Answer every error of an application in the shape of its API."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)


def _generation_routes(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/chat/completions", response_model=None, openapi_extra=_takes(ChatBody))
    async def chat(request: Request) -> Response:
        return await gateway.chat(request)

    @app.post("/v1/completions", response_model=None, openapi_extra=_takes(CompletionBody))
    async def completions(request: Request) -> Response:
        return await gateway.complete(request)

    @app.post("/v1/messages", response_model=None, openapi_extra=_takes(MessagesBody))
    async def messages(request: Request) -> Response:
        return await gateway.message(request)

    @app.post("/v1/responses", response_model=None, openapi_extra=_takes(ResponseBody))
    async def respond(request: Request) -> Response:
        return await gateway.respond(request)


def _takes(body: type[BaseModel]) -> dict[str, Any]:
    """A route's body for the API's description: the route reads it by itself (``generate``)."""
    content = {"application/json": {"schema": {"$ref": _SCHEMAS + body.__name__}}}
    return {"requestBody": {"required": True, "content": content}}


def _describe_bodies(app: FastAPI) -> None:
    """Add to the API's description what bodies look like."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        described = generated()
        _, bodies = models_json_schema([(body, "validation") for body in _BODIES], ref_template=_SCHEMAS + "{model}")
        described.setdefault("components", {}).setdefault("schemas", {}).update(bodies["$defs"])
        return described

    app.openapi = openapi  # type: ignore[method-assign]


def _information_routes(app: FastAPI, gateway: Gateway, instance: str) -> None:
    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        found = [_model(gateway, name, request) for name in gateway.models]
        return model_page(found) if _is_anthropic(request) else {"object": "list", "data": found}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        if name not in gateway.models:
            raise unknown_model(name)
        return _model(gateway, name, request)

    @app.get("/health")
    async def health() -> JSONResponse:
        reason = gateway.engines.why_not()
        state = {"status": "unavailable", "reason": reason} if reason else {"status": "ok"}
        return JSONResponse(
            state | {"engines": gateway.engines.summary(), "instance": instance}, 503 if reason else 200
        )

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}


def _is_anthropic(request: Request) -> bool:
    """Whether a path that both APIs have is asked for by a client of Anthropic's."""
    return "anthropic-version" in request.headers


def _model(gateway: Gateway, name: str, request: Request) -> dict[str, Any]:
    longest = None if gateway.engines.why_not() else gateway.engines.limits().max_model_len
    if _is_anthropic(request):
        return model_info(name, gateway.created, longest)
    out = {"id": name, "object": "model", "created": gateway.created, "owned_by": "quire", "root": gateway.models[0]}
    return out | ({"max_model_len": longest} if longest else {})


def error_response(error: ApiError, scope: Scope) -> JSONResponse:
    """An error as the HTTP response to a request of this scope."""
    if is_messages(scope["path"]):
        return JSONResponse(error_body(error, scope["record"].request_id), error.status, error.headers())
    return JSONResponse(error.body(), error.status, error.headers())


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error_response(error, request.scope)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with a body, by the name of its field."""
    assert isinstance(error, RequestValidationError)
    for found in error.errors():
        if found["type"] == "json_invalid":
            wrong = invalid(f"the body is not valid JSON: {found.get('ctx', {}).get('error', '')}")
            return error_response(wrong, request.scope)
    return error_response(validation_error(error.errors(), skip=1), request.scope)


async def _client_gone(_: Request, __: Exception) -> Response:
    """For the access log: no client reads it."""
    return Response(status_code=CLIENT_GONE)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """The framework's own errors: unknown path, wrong method, unreadable body."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(error.status_code)
    ours = ApiError(error.status_code, str(error.detail), type="invalid_request_error", code=code)
    response = error_response(ours, request.scope)
    response.headers.update(error.headers or {})
    return response


async def _bug(request: Request, _: Exception) -> JSONResponse:
    """An error of ours: the edge logs it, the client learns only that."""
    ours = ApiError(500, "internal error of the gateway", type="server_error", code="internal_error")
    return error_response(ours, request.scope)
