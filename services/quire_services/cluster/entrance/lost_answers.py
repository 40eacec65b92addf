"""Lost answers: what a client is told when no node has an answer for it, in the words of the API that it speaks.

A request of which nothing was sent gets 503 with Retry-After. A stream that has begun gets the error event of its API,
whose message says when to try again, since its headers are gone.
"""

from __future__ import annotations

import orjson
from starlette.types import Message

from quire_services.gateway.anthropic.api_errors import error_body, is_messages
from quire_services.gateway.http.errors import AWAY_RETRY_AFTER_S, ApiError, unavailable

RESPONSES_PATH = "/v1/responses"


def no_node() -> ApiError:
    """503: nothing behind the entrance takes it."""
    return unavailable("no node can answer now; try again later", AWAY_RETRY_AFTER_S)


def node_lost() -> ApiError:
    """What ends a stream that had begun; its tokens are not sent twice, so it does not begin again by itself."""
    return ApiError(
        503,
        f"the node that was answering is gone; send the request again after {AWAY_RETRY_AFTER_S} seconds",
        type="service_unavailable",
        code="node_lost",
        retry_after_s=AWAY_RETRY_AFTER_S,
    )


def error_messages(error: ApiError, path: str, request_id: str) -> list[Message]:
    """An error as the whole answer."""
    body = orjson.dumps(error_body(error, request_id) if is_messages(path) else error.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), "x-request-id": request_id}
    if is_messages(path):
        headers["request-id"] = request_id
    raw = [(name.encode(), value.encode()) for name, value in (headers | error.headers()).items()]
    return [
        {"type": "http.response.start", "status": error.status, "headers": raw},
        {"type": "http.response.body", "body": body},
    ]


def error_event(error: ApiError, path: str, request_id: str) -> bytes:
    """An error as the last event of a stream. It begins with the end of an event that may be half sent."""
    if is_messages(path):
        return b"\n\nevent: error\ndata: %b\n\n" % orjson.dumps(error_body(error, request_id))
    if path.startswith(RESPONSES_PATH):
        told = {"type": "error", "code": error.code, "message": error.body()["error"]["message"], "param": None}
        return b"\n\nevent: error\ndata: %b\n\n" % orjson.dumps(told)
    return b"\n\ndata: %b\n\n" % orjson.dumps(error.body())
