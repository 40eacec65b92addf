"""Errors over HTTP: one exception that carries the status and the OpenAI error object.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

Clients decide by status and ``code`` whether to try again: 429 and 503 always come with ``Retry-After``, and in
milliseconds as OpenAI's own clients read it first, a little later for each so that they do not all come back in one
moment. Nothing is ever answered with another shape, the framework's own errors included (``http_app`` maps them here).
"""

from __future__ import annotations

import random
from typing import Any

RETRY_AFTER_S = 1
AWAY_RETRY_AFTER_S = 5  # where no engine can be given work: about as long as one takes to start again
SPREAD = 0.5  # of that time, over which clients come back
MAX_MESSAGE_CHARS = 500  # of a message, which may quote what a client sent


class ApiError(Exception):
    """A request that ends in an error.

    Attributes:
        status: HTTP status, if nothing has been sent yet.
        param: the field of the request that is wrong, if one is.
        code: short machine-readable reason.
        retry_after_s: seconds after which it makes sense to try again, if it does.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int = RETRY_AFTER_S,
    ):
        super().__init__(message)
        self.status = status
        self.message = message if len(message) <= MAX_MESSAGE_CHARS else message[:MAX_MESSAGE_CHARS] + "..."
        self.type = type
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The error object; of a client's own words in it, halves of surrogate pairs are spelled out, as no encoding
        has them."""
        message, param = (
            text and text.encode(errors="backslashreplace").decode() for text in (self.message, self.param)
        )
        return {"error": {"message": message, "type": self.type, "param": param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        if self.status in (429, 503):
            later_ms = round(1000 * self.retry_after_s * random.uniform(1, 1 + SPREAD))
            return {
                "retry-after": str(self.retry_after_s),
                "retry-after-ms": str(later_ms),
                "x-should-retry": "true",
            }
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {}


class ClientGone(Exception):
    """The client hung up: no answer would be read."""


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request is wrong and will be wrong again."""
    return ApiError(400, message, type="invalid_request_error", param=param, code=code)


def body_too_large(message: str) -> ApiError:
    """413: the body, or what reading it takes, is beyond a bound."""
    return ApiError(413, message, type="invalid_request_error", code="body_too_large")


def unsupported(param: str, why: str) -> ApiError:
    """400: a parameter that would change the answer and is not served; ignoring it would be a wrong answer. ``why``:
    and what there is instead."""
    return invalid(f"{param!r} is not served: {why}", param, "unsupported_parameter")


def other_api(param: str, api: str) -> ApiError:
    """400: a parameter that only the other API has."""
    return invalid(
        f"{param!r} is a parameter of {api} and means nothing here; leave it out", param, "unsupported_parameter"
    )


def too_long(prompt: int, asked: int, limit: int, param: str | None) -> ApiError:
    """400: the prompt and what is asked for do not fit the model. All in tokens.

    It begins as OpenAI's does: frameworks know by these words that they must shorten a conversation.
    """
    return invalid(
        f"this model's maximum context length is {limit} tokens; {prompt} of the prompt and {asked} to generate"
        " are too many",
        param,
        "context_length_exceeded",
    )


def unknown_model(name: str) -> ApiError:
    """404: no such model here."""
    return ApiError(
        404, f"no model {name!r} is served here", type="invalid_request_error", param="model", code="model_not_found"
    )


def bad_key() -> ApiError:
    """401: no API key, or not one of ours."""
    return ApiError(401, "missing or wrong API key", type="authentication_error", code="invalid_api_key")


def queue_full(message: str = "too many of your requests are waiting; try again later") -> ApiError:
    """429: too many requests of this tenant wait already."""
    return ApiError(429, message, type="rate_limit_error", code="queue_full")


def unavailable(reason: str, retry_after_s: int = RETRY_AFTER_S) -> ApiError:
    """503: no engine can answer now."""
    return ApiError(503, reason, type="service_unavailable", code="service_unavailable", retry_after_s=retry_after_s)


def not_begun(seconds: float) -> ApiError:
    """503: too much is before this request."""
    return ApiError(
        503,
        f"the answer could not be begun within {seconds:g} seconds; try again later",
        type="service_unavailable",
        code="deadline_exceeded",
        retry_after_s=AWAY_RETRY_AFTER_S,
    )


def poison() -> ApiError:
    """500: it is not tried again, for it may be what kills engines."""
    return ApiError(
        500,
        "engine after engine died under this request; it is not tried again",
        type="server_error",
        code="engines_died",
    )


def no_such_engine(name: str) -> ApiError:
    """404: to an operator."""
    return ApiError(
        404, f"no engine named {name[:80]!r} is connected", type="invalid_request_error", code="engine_not_found"
    )


def last_engine(name: str) -> ApiError:
    """409: to an operator, who would stop all service."""
    reason = f"no other engine can take the requests of {name}: start one, or force it"
    return ApiError(409, reason, type="invalid_request_error", code="last_engine")


def answer_unread() -> ApiError:
    """408: more of the answer waits to be read than the gateway keeps."""
    return ApiError(408, "the answer was not read fast enough", type="invalid_request_error", code="answer_unread")


def share_too_small(message: str, again_s: int) -> ApiError:
    """429: more than this node's share of a limit of the cluster, which leaves room for it."""
    reason = f"{message} on this node now; more of the cluster's limit is being fetched, try again in {again_s} s"
    return ApiError(429, reason, type="rate_limit_error", code="tenant_limit", retry_after_s=again_s)


def engine_error(code: str, message: str, constrained_by: str = "") -> ApiError:
    """What an engine reports in an output with ``finish`` = ``error``, as the error of a request whose answers this
    parameter holds to a grammar, if one does."""
    if code == "grammar":
        return invalid(f"{constrained_by}: {message}", constrained_by, "invalid_grammar")
    if code == "too_long":
        return invalid(message, code="context_length_exceeded")
    if code == "invalid":
        return invalid(message)
    if code == "over_limit":
        return invalid(message, code="tenant_limit_exceeded")
    if code == "no_space":
        return ApiError(429, message, type="rate_limit_error", code="tenant_limit")
    if code == "no_room":
        return ApiError(503, message, type="service_unavailable", code="no_room")
    return ApiError(500, message or "the engine failed", type="server_error", code="internal_error")
