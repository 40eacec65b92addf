"""Admin API: publishing, groups, quotas, keys and engines over HTTP, for operators who cannot run ``quire`` there.

    POST   /admin/publications                          {"id", "domain", what is published (``PublishBody``)}
    GET    /admin/publications
    DELETE /admin/publications/{id}
    DELETE /admin/publications/{id}/variants/{variant}
    POST   /admin/publications/explain                  {"request" or "request_id", "tenant"?}
    GET    /admin/groups
    PUT    /admin/groups/{group}/members/{tenant}
    DELETE /admin/groups/{group}/members/{tenant}
    GET    /admin/tenants
    PUT    /admin/tenants/{tenant}/quota                {"limit"?, "guarantee"?, "weight"?}
    GET    /admin/keys
    PUT    /admin/keys                                  {"version", "keys": [{"tenant", "digest"}]}
    PUT    /admin/declarations                          of the node's follower (``follower_report``)
    GET    /metrics, and below it                       metrics, with those of tenants (``routes.metrics``)
    GET    /admin/engines
    POST   /admin/engines/{name}/drain                  {"force"?}
    POST   /admin/engines/{name}/undrain

On a port of its own, on the loopback, under a token of its own: no tenant's key opens it, and the port that serves
tenants knows none of these paths. It does what ``quire prefix`` and ``quire group`` do, by asking the kvstore; of
engines the gateway knows itself (``engine_rows``), and ``quire engines`` and ``quire drain`` ask here. Errors have the
OpenAI shape. What is permitted is the kvstore's decision alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from quire_kv import (
    BadRequest,
    Conflict,
    Groups,
    KVReader,
    NotFound,
    NotPermitted,
    Publication,
    QuireError,
    RemoteError,
)
from quire_proto.wire.publication_ids import variant_of
from quire_proto.wire.u32 import pack_u32
from quire_services.config.loader import IDENTIFIER
from quire_services.gateway.exposition.kvstore_answers import KvstoreAnswers
from quire_services.gateway.generate import Gateway
from quire_services.gateway.http.errors import ApiError, invalid, unavailable
from quire_services.gateway.http_app import map_errors
from quire_services.gateway.published_prompts.explanation import PUBLIC, Explanation, domains_of, explain
from quire_services.gateway.published_prompts.preamble import Preamble, preamble_of
from quire_services.gateway.published_prompts.prompt_files import PublishError, checked_tools
from quire_services.gateway.published_prompts.prompt_row import prompt_row
from quire_services.gateway.published_prompts.rendered_prompt import RenderedPrompt, render_prompt
from quire_services.gateway.published_prompts.variants import publish_variant, unpublish_variants
from quire_services.gateway.routes.metrics import add_metrics_routes
from quire_services.process.kvstore_call import ANSWER_TIMEOUT_S, kvstore_reader

from .engine_rows import serve_engines
from .follower_report import serve_follower
from .key_file import KeyFile, serve_keys
from .quota_rows import serve_quotas

_T = TypeVar("_T")
_STATUS: dict[type[RemoteError], int] = {BadRequest: 400, NotPermitted: 403, NotFound: 404, Conflict: 409}


class PublishBody(BaseModel):
    """``POST /admin/publications``. An unknown field is an error: here a misspelt one would share too much.

    One of ``system`` (with ``tools`` or without), ``request`` and ``request_id`` (with the ``tenant`` whose it was)
    says what is published.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    id: Annotated[str, Field(pattern=f"^{IDENTIFIER.pattern}$")]
    domain: str
    system: Annotated[str, Field(min_length=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    request: dict[str, Any] | None = None
    request_id: str | None = None
    tenant: str = ""
    any_tools: bool = False
    replace: bool = False


class ExplainBody(BaseModel):
    """``POST /admin/publications/explain``."""

    model_config = ConfigDict(strict=True, extra="forbid")
    request: dict[str, Any] | None = None
    request_id: str | None = None
    tenant: str = ""


def make_admin_app(gateway: Gateway, run_dir: Path, instance: str, kvstore: KvstoreAnswers, keys: KeyFile) -> FastAPI:
    """The application, without its edge. ``run_dir`` is where the kvstore listens, ``kvstore`` what it answers for
    metrics, ``keys`` where the gateway's keys lie."""
    app = FastAPI(title="Quire admin", docs_url=None, redoc_url=None, openapi_url=None)
    map_errors(app)

    async def ask(question: Callable[[KVReader], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(None, _ask, run_dir, question)

    @app.post("/admin/publications")
    async def publish(body: PublishBody) -> dict[str, Any]:
        longest = gateway.engines.limits().max_model_len
        rendered = await asyncio.get_running_loop().run_in_executor(None, _rendered, gateway, body, longest)
        reply = await ask(
            lambda reader: publish_variant(
                reader, body.id, body.domain, rendered.tokens, tenant=_publisher(body), replace=body.replace
            )
        )
        fields = {"id": body.id, "variant": variant_of(pack_u32(rendered.tokens)), "domain": body.domain}
        about = {"state": reply.state, "tokens": reply.tokens, "generation": reply.generation}
        return _publication(fields | about) | {"notes": rendered.notes}

    @app.get("/admin/publications")
    async def publications() -> dict[str, Any]:
        listed = await ask(lambda reader: reader.fetch_publications())
        return _list([_publication(prompt_row(publication)) for publication in listed.publications])

    @app.delete("/admin/publications/{identity}")
    async def unpublish(identity: str) -> dict[str, Any]:
        await ask(lambda reader: unpublish_variants(reader, identity))
        return _publication({"id": identity, "deleted": True})

    @app.delete("/admin/publications/{identity}/variants/{variant}")
    async def unpublish_variant(identity: str, variant: str) -> dict[str, Any]:
        await ask(lambda reader: unpublish_variants(reader, identity, variant))
        return _publication({"id": identity, "variant": variant, "deleted": True})

    @app.post("/admin/publications/explain")
    async def why(body: ExplainBody) -> dict[str, Any]:
        domains = domains_of(body.tenant, await ask(lambda reader: reader.groups())) if body.tenant else None
        listed = await ask(lambda reader: reader.fetch_publications())
        look = partial(_explained, gateway, body, listed.publications, domains)
        found = await asyncio.get_running_loop().run_in_executor(None, look)
        return {"object": "explanation", **found.as_json()}

    @app.get("/admin/groups")
    async def groups() -> dict[str, Any]:
        return _members(await ask(lambda reader: reader.groups()))

    @app.put("/admin/groups/{group}/members/{tenant}")
    async def join(group: str, tenant: str) -> dict[str, Any]:
        return _members(await ask(lambda reader: reader.join(tenant, group)))

    @app.delete("/admin/groups/{group}/members/{tenant}")
    async def leave(group: str, tenant: str) -> dict[str, Any]:
        return _members(await ask(lambda reader: reader.leave(tenant, group)))

    add_metrics_routes(app, gateway, kvstore, instance, tenants=True)
    serve_engines(app, gateway.engines)
    serve_quotas(app, ask)
    serve_keys(app, keys)
    serve_follower(app, gateway.follower)
    return app


def _ask(run_dir: Path, question: Callable[[KVReader], _T]) -> _T:
    """Ask the kvstore; its refusals and its absence as ApiError. On a thread of its own: the loop must not wait."""
    try:
        with kvstore_reader(run_dir, ANSWER_TIMEOUT_S) as reader:
            return question(reader)
    except FileNotFoundError:
        raise unavailable("no kvstore answers") from None
    except RemoteError as error:
        status = _STATUS.get(type(error))
        if status is None:
            raise unavailable(str(error)) from None
        raise ApiError(status, error.message, type="invalid_request_error", code=error.code.lower()) from None
    except QuireError as error:
        raise unavailable(str(error)) from None


def _rendered(gateway: Gateway, body: PublishBody, longest: int) -> RenderedPrompt:
    if [body.system, body.request, body.request_id].count(None) != 2:
        raise invalid("one of 'system', 'request' and 'request_id' says what is published", "system")
    try:
        tools = None if body.tools is None else checked_tools(body.tools, "tools")
    except PublishError as error:
        raise invalid(str(error), "tools") from None
    if tools and body.system is None:
        raise invalid("a request has tools of its own", "tools")
    encoder = gateway.encoder
    request = _request(gateway, body)
    try:
        if body.system is not None:
            return render_prompt(encoder, Preamble.of_system(body.system, tools), longest)
        return render_prompt(encoder, preamble_of(request, encoder, any_tools=body.any_tools), longest)
    except PublishError as error:
        raise invalid(str(error), "request" if body.system is None else "system") from None


def _request(gateway: Gateway, body: PublishBody | ExplainBody) -> object:
    """The request that is meant: as it is given, or what the gateway keeps of a tenant's. Raises ApiError."""
    if body.request_id is None:
        return body.request
    if not body.tenant:
        raise invalid("'request_id' needs the 'tenant' whose request it was", "tenant")
    kept = gateway.recent.get(body.tenant, body.request_id)
    if kept is None:
        off = "" if gateway.recent.most else ": this gateway keeps none (--remembered-requests)"
        reason = f"no request {body.request_id[:80]!r} of tenant {body.tenant[:80]!r} is kept{off}"
        raise ApiError(404, reason, type="invalid_request_error", code="not_found")
    return json.loads(kept)


def _publisher(body: PublishBody) -> str:
    """On whose behalf it is published: what a tenant said goes to a group as its member alone publishes to it."""
    return body.tenant if body.request_id is not None and body.domain != PUBLIC else ""


def _explained(
    gateway: Gateway, body: ExplainBody, published: tuple[Publication, ...], domains: set[str] | None
) -> Explanation:
    if (body.request is None) == (body.request_id is None):
        raise invalid("either 'request' or 'request_id' says what is explained", "request")
    try:
        return explain(gateway.encoder, _request(gateway, body), published, domains)
    except PublishError as error:
        raise invalid(str(error), "request") from None


def _publication(fields: dict[str, Any]) -> dict[str, Any]:
    return {"object": "publication", **fields}


def _members(groups: Groups) -> dict[str, Any]:
    return _list([{"object": "member", **asdict(member)} for member in groups.members])


def _list(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": rows}
