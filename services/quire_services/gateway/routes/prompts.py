"""Routes of prompts: their tokens and texts, and how many tokens they are; vLLM's paths, and the others' counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from quire_services.gateway.anthropic.api_errors import check_version, is_messages
from quire_services.gateway.anthropic.bodies import MessagesBody, PromptBody
from quire_services.gateway.generate import Gateway
from quire_services.gateway.openai.bodies import ChatBody, CompletionBody
from quire_services.gateway.openai.response_api.response_body import ResponseBody
from quire_services.gateway.readers.prompt_answers import DETOKENIZE, TOKENIZE, DetokenizeBody, TokenizeBody
from quire_services.gateway.readers.request_reader import COUNT, INPUT_TOKENS

PROMPT_ROUTES: dict[str, tuple[str, type[BaseModel]]] = {
    "/tokenize": (TOKENIZE, TokenizeBody),
    "/detokenize": (DETOKENIZE, DetokenizeBody),
    "/v1/chat/completions/render": ("render_chat", ChatBody),
    "/v1/completions/render": ("render_completions", CompletionBody),
    "/v1/messages/render": ("render_messages", MessagesBody),
    "/v1/responses/render": ("render_responses", ResponseBody),
    "/v1/messages/count_tokens": (COUNT, PromptBody),
    "/v1/responses/input_tokens": (INPUT_TOKENS, ResponseBody),
}


def add_prompt_routes(app: FastAPI, gateway: Gateway, takes: Callable[[type[BaseModel]], dict[str, Any]]) -> None:
    """Add them; ``takes`` describes a route's body."""
    for path, (api, body) in PROMPT_ROUTES.items():
        app.add_api_route(
            path, _route(gateway, api, path), methods=["POST"], response_model=None, openapi_extra=takes(body)
        )

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        return gateway.encoder.about()


def _route(gateway: Gateway, api: str, path: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        if is_messages(path):
            check_version(request.headers)
        return await gateway.tell_prompt(api, request)

    return answer
