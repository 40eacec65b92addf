"""Unserved APIs: what a client of them is told, a sentence that says what is served here, or what serves them.

A bare "not found" would leave a user to guess whether the address, the version or the model is wrong. What such a
request carries is not read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI

from quire_services.gateway.http.errors import ApiError

_SERVED = "this server has /v1/chat/completions, /v1/completions, /v1/responses and /v1/messages"
_EMBED = (
    "the model here writes text; a server of an embedding model makes embeddings (text-embeddings-inference, or vLLM"
    " with --runner pooling): give the client its address for them"
)
_SCORE = "the model here writes text; a server of a reranking model scores (text-embeddings-inference, or vLLM)"
_TEXT = f"the model here reads and writes text only; {_SERVED}"
_NO_FILES = f"no files are kept here, a request brings all that it is about; {_SERVED}"
# The beginning of a path -> what is said of it.
UNSERVED = {
    "/v1/embeddings": f"embeddings are not served: {_EMBED}",
    "/v1/rerank": f"reranking is not served: {_SCORE}",
    "/v1/score": f"scoring is not served: {_SCORE}",
    "/v1/moderations": f"moderations are not served: {_SERVED}; a chat with a model made to moderate may stand in",
    "/v1/files": f"files are not served: {_NO_FILES}",
    "/v1/uploads": f"uploads are not served: {_NO_FILES}",
    "/v1/vector_stores": f"vector stores are not served: {_NO_FILES}",
    "/v1/batches": f"batches are not served: send their requests by themselves, they are batched here; {_SERVED}",
    "/v1/messages/batches": "batches are not served: send their requests to /v1/messages, they are batched here",
    "/v1/audio": f"audio is not served: {_TEXT}",
    "/v1/images": f"images are not served: {_TEXT}",
    "/v1/videos": f"videos are not served: {_TEXT}",
    "/v1/realtime": f"the realtime API is not served: {_TEXT}",
    "/v1/fine_tuning": f"fine-tuning is not served: {_SERVED}",
    "/v1/conversations": "conversations are not served: /v1/responses goes on by 'previous_response_id'",
    "/v1/assistants": f"assistants are not served: {_NO_FILES}",
    "/v1/threads": f"threads are not served: {_NO_FILES}",
}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def is_unserved(path: str) -> bool:
    """Whether a path is of an API that is refused, whatever the request has in it."""
    return any(path == begin or path.startswith(begin + "/") for begin in UNSERVED)


def add_unserved_routes(app: FastAPI) -> None:
    """Refuse each of these APIs by its sentence."""
    for begin, sentence in UNSERVED.items():
        for path in (begin, begin + "/{rest:path}"):
            app.add_api_route(path, _refusal(sentence), methods=_METHODS, include_in_schema=False)


def _refusal(sentence: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise ApiError(404, sentence, type="invalid_request_error", code="unsupported_api")

    return refuse
