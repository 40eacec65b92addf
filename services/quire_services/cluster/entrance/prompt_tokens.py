"""Prompt tokens: a request's prompt as the model reads it, asked of a node, as its ``/render`` says it.

The node is asked with the client's own key, so a router is told no prompt that the client may not send. What cannot be
rendered (a wrong key, a wrong body) has no tokens: the request is then carried to any node, which says what is wrong in
its own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import orjson

from .members import Member

GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"})
RENDER_S = 5.0
# Of a client's headers, what a node needs to know whose prompt it is and how to read it.
SHOWN = frozenset({b"authorization", b"x-api-key", b"content-type", b"anthropic-version", b"host", b"x-request-id"})


async def tokens_of_prompt(
    client: httpx.AsyncClient, member: Member, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> tuple[str, list[int]]:
    """The model's name and the tokens, of the first prompt if there are several; none where they cannot be had."""
    shown = [(name, value) for name, value in headers if name in SHOWN]
    request = httpx.Request(
        "POST",
        f"{member.node.url}{path}/render",
        headers=shown,
        content=body,
        extensions={"timeout": httpx.Timeout(RENDER_S).as_dict()},
    )
    try:
        answer = await client.send(request)
        said: Any = orjson.loads(answer.content) if answer.status_code == 200 else {}
        first: Any = said[0] if isinstance(said, list) and said else said
        return str(first["model"]), list(first["token_ids"])
    except (httpx.HTTPError, orjson.JSONDecodeError, KeyError, TypeError):
        return "", []
