"""App: every request that comes to the entrance, from its body to the line in the log.

    /health                         of the entrance: 200 while a node takes requests
    what generates                  to the node that the router chooses
    /v1/responses/ID and below      to the node that has it: they are asked in turn until one knows it
    the rest of /v1, /tokenize, ... to the node with the least open
    anything else                   404: what nodes tell routers and scrapers is theirs, and the entrance stands in
                                    networks that they trust

A request keeps one id over all nodes that it meets, the client's if it has one. Keys are the nodes' to check.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import httpx
import orjson
import structlog
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from quire_services.config.settings import MAX_BODY_BYTES
from quire_services.gateway.http.errors import ApiError, ClientGone
from quire_services.gateway.http.hang_up import CLIENT_GONE, hang_up
from quire_services.gateway.readers.request_bytes import RequestBytes

from .lost_answers import error_event, error_messages, no_node, node_lost
from .members import Member, Members
from .passage import Headers, NodeGone, NodeRefused, Passage
from .prompt_tokens import GENERATING, tokens_of_prompt
from .routers.router import Router, RouterAway

PASSED = re.compile(r"/(v1/.*|tokenize|detokenize|tokenizer_info|version)")
KEPT = re.compile(r"/v1/responses/([^/]+)")  # a response that one node keeps
NOT_KEPT = frozenset({"input_tokens", "render"})
KEEPER_TIMEOUT = httpx.Timeout(5.0).as_dict()
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
log = structlog.get_logger()


class EntranceApp:
    """The ASGI application of an entrance."""

    def __init__(self, members: Members, router: Router, client: httpx.AsyncClient) -> None:
        self._members, self._router, self._client = members, router, client
        self._bytes = RequestBytes()
        self.counts: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        assert scope["type"] == "http"
        if scope["path"] == "/health":
            await _send_json(send, *self._health())
            return
        request_id = _request_id(scope["headers"])
        headers = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        headers.append((b"x-request-id", request_id.encode()))
        way = _Way(self, scope, headers, request_id, send)
        try:
            if PASSED.fullmatch(scope["path"]) is None:
                raise ApiError(404, "no such path here", type="invalid_request_error", code="not_found")
            whose = next((value for name, value in headers if name in (b"authorization", b"x-api-key")), b"")
            async with self._bytes.of(Request(scope, receive), whose.decode("latin-1"), lambda: MAX_BODY_BYTES) as body:
                await _until_gone(receive, way, bytes(body))
        except ClientGone:
            way.passage.status = CLIENT_GONE
        except ApiError as error:
            way.passage.status = error.status
            for message in error_messages(error, scope["path"], request_id):
                await send(message)
        finally:
            way.say()

    def _health(self) -> tuple[int, dict[str, object]]:
        nodes = {member.node.name: {"state": member.word, "open": member.open} for member in self._members}
        fit = any(member.takes for member in self._members)
        return 200 if fit else 503, {"status": "ok" if fit else "no node", "nodes": nodes, **self.counts}

    async def choose(self, path: str, headers: Headers, body: bytes) -> tuple[Member | None, str]:
        """The router's choice for what generates, and its ticket; None where it has none that takes requests."""
        tokens: list[int] = []
        model = ""
        if self._router.needs_tokens:
            asked = self._members.least_busy(set())
            if asked is not None:
                model, tokens = await tokens_of_prompt(self._client, asked, path, headers, body)
            if not tokens:
                return None, ""
        try:
            name, ticket = await self._router.choose(model, tokens)
        except RouterAway as error:
            self.counts["router_away"] += 1
            log.warning("router_away", reason=str(error)[:200])
            return None, ""
        chosen = self._members.get(name)
        if chosen is None or not chosen.takes:
            await self._router.done(ticket)
            return None, ""
        return chosen, ticket

    async def done(self, ticket: str) -> None:
        """Tell the router that a request is over."""
        await self._router.done(ticket)

    def turn(self, first: Member | None) -> Iterator[Member]:
        """Nodes to ask, the chosen one first, each once."""
        asked: set[str] = set()
        following = first or self._members.least_busy(asked)
        while following is not None:
            asked.add(following.node.name)
            yield following
            following = self._members.least_busy(asked)

    async def keeper(self, response_id: str, headers: Headers) -> Member | None:
        """The node that keeps a response, as its client may see it."""
        shown = [(name, value) for name, value in headers if name != b"content-length"]
        for member in list(self._members):
            url = f"{member.node.url}/v1/responses/{response_id}"
            request = httpx.Request("GET", url, headers=shown, extensions={"timeout": KEEPER_TIMEOUT})
            try:
                if (await self._client.send(request)).status_code == 200:
                    return member
            except httpx.TransportError:
                continue
        return None


class _Way:
    """One request's way through nodes."""

    def __init__(self, app: EntranceApp, scope: Scope, headers: Headers, request_id: str, send: Send) -> None:
        self._app, self._scope, self._headers, self._id = app, scope, headers, request_id
        self._nodes: list[str] = []
        self._chosen, self._began, self._first_s = False, time.monotonic(), 0.0
        self.passage = Passage(app._client, send, self._begins)

    async def go(self, body: bytes) -> None:
        """Until it is answered. Raises ApiError where nothing was sent."""
        async with self._first_node(body) as first:
            alone = first is not None and bool(_kept(self._scope["path"], body))
            await self._ask([first] if alone and first else self._app.turn(first), body)

    @asynccontextmanager
    async def _first_node(self, body: bytes) -> AsyncIterator[Member | None]:
        path = self._scope["path"]
        kept = _kept(path, body)
        if kept:
            yield await self._app.keeper(kept, self._headers)
            return
        if path not in GENERATING or self._scope["method"] != "POST":
            yield None
            return
        first, ticket = await self._app.choose(path, self._headers, body)
        self._chosen = first is not None
        try:
            yield first
        finally:
            if ticket:
                await asyncio.shield(self._app.done(ticket))

    async def _ask(self, members: Iterable[Member], body: bytes) -> None:
        raw, query = self._scope.get("raw_path") or self._scope["path"].encode(), self._scope.get("query_string", b"")
        target = (raw + b"?" + query if query else raw).decode("latin-1")
        refused: NodeRefused | None = None
        for member in members:
            self._nodes.append(member.node.name)
            try:
                await self.passage.through(member, self._scope["method"], target, self._headers, body)
                return
            except NodeRefused as error:
                refused = error
            except NodeGone as error:
                log.warning("node_gone", node=member.node.name, begun=error.begun, reason=str(error)[:200])
                member.fit = False  # until it says otherwise
                if error.begun:
                    break
        await self._lost(refused)

    async def _lost(self, refused: NodeRefused | None) -> None:
        """Say that there is no answer, or no more of it."""
        path, passage = self._scope["path"], self.passage
        self._app.counts["lost_streams" if passage.started else "unanswered"] += 1
        if passage.started:
            await passage.end_with(error_event(node_lost(), path, self._id))
        elif refused is not None:
            passage.status = 503
            for message in refused.messages:
                await passage.send(message)
        else:
            raise no_node()

    def _begins(self) -> None:
        self._first_s = time.monotonic() - self._began

    def say(self) -> None:
        """The line in the log."""
        self._app.counts["requests"] += 1
        self._app.counts["moves"] += max(len(self._nodes) - 1, 0)
        log.info(
            "request",
            request_id=self._id,
            method=self._scope["method"],
            path=self._scope["path"][:200],
            status=self.passage.status,
            nodes=self._nodes,
            routed=self._chosen,
            first_ms=round(1000 * self._first_s, 1),
            ms=round(1000 * (time.monotonic() - self._began), 1),
        )


async def _until_gone(receive: Receive, way: _Way, body: bytes) -> None:
    """Go that way; it is left when the client hangs up. The server calls an answer that is complete a hang-up, too."""
    task, gone = asyncio.ensure_future(way.go(body)), asyncio.ensure_future(hang_up(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not way.passage.over:
            raise ClientGone
        await task
    finally:
        gone.cancel()
        task.cancel()


def _kept(path: str, body: bytes) -> str:
    """The id of a response that only one node has, of which a request speaks."""
    if (found := KEPT.match(path)) is not None:
        return "" if found[1] in NOT_KEPT else found[1]
    if not path.startswith("/v1/responses") or b'"previous_response_id"' not in body:
        return ""
    try:
        named = orjson.loads(body)["previous_response_id"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return named if isinstance(named, str) and re.fullmatch(r"[\w-]{1,128}", named) else ""


def _request_id(headers: Headers) -> str:
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else "req-" + secrets.token_hex(12)


async def _send_json(send: Send, status: int, said: dict[str, object]) -> None:
    body = orjson.dumps(said)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})
