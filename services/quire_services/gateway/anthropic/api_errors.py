"""API errors: paths, versions and errors of Anthropic's API.

    {"type": "error", "error": {"type": ..., "message": ..., "details": {"error_code": ...}}, "request_id": ...}

The status says the class, as everywhere; the type is this API's word for it, and the code is in the details, if
there is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.http.own_words import field_word, worded

PATH = "/v1/messages"
VERSIONS = ("2023-06-01", "2026-10-21")  # they differ in what they refuse, and all of it is served here
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}

# Fields of the chat that a message request becomes -> those that its client has sent.
_WORDS = (
    (re.compile(r"(tools\[\d+\])\.function\.parameters\b"), r"\1.input_schema"),
    (re.compile(r"(tools\[\d+\])\.function\b"), r"\1"),
    field_word(r"response_format(?:\.json_schema)?", "output_config.format"),
    field_word("reasoning_effort", "output_config.effort"),
    field_word("stop", "stop_sequences"),
)


def is_messages(path: str) -> bool:
    """Whether a path belongs to this API."""
    return path == PATH or path.startswith(PATH + "/")


def check_version(headers: Mapping[str, str]) -> None:
    """Raise ApiError 400 for a version of the API that is not served. None need be named."""
    asked = headers.get("anthropic-version")
    if asked is not None and asked not in VERSIONS:
        raise invalid(f"anthropic-version: {' and '.join(VERSIONS)} are served, not {asked[:40]!r}")


def error_body(error: ApiError, request_id: str) -> dict[str, Any]:
    """An error as this API says it."""
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    told = worded(error, _WORDS).body()["error"]
    message, param = told["message"], told["param"] or ""
    if "[" in param and param not in message:  # an error has no field for the place here
        message = f"{param}: {message}"
    said: dict[str, Any] = {"type": kind, "message": message}
    if error.code:
        said["details"] = {"error_code": error.code}
    return {"type": "error", "error": said, "request_id": request_id}
