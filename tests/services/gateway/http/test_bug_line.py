"""What the log says of an exception of our own: where, and nothing that a client has sent."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from quire_services.gateway.counters import Counters
from quire_services.gateway.edge import Edge

CANARY = "the canary sings at dawn"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """An application with a bug that its client's words are in."""
    try:
        int(CANARY)
    except ValueError as error:
        raise RuntimeError(CANARY) from error


async def nothing(*_: Any) -> dict[str, Any]:
    return {"type": "http.request", "body": b""}


def test_the_line_of_a_bug_says_where_and_not_what() -> None:
    """Kinds and frames of all exceptions of the chain, and the request's id; none of their messages."""
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"mine")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers, "query_string": b""}
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        asyncio.run(Edge(app, lambda _: "t", Counters())(scope, nothing, nothing))

    (bug,) = (line for line in lines if line["event"] == "bug")
    assert (bug["request_id"], bug["error"]) == ("mine", "RuntimeError")
    assert ("int(CANARY)" in bug["stack"], "ValueError" in bug["stack"]) == (True, True)
    assert CANARY not in str(lines)
