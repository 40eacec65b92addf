"""Prompt answers: what is told of prompts that are not answered: their tokens, their text, how many tokens they are.

An answer is made whole here, as bytes, beside what reads the prompt: to write the tokens of a long one takes as long as
to parse its body, and belongs where that is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from quire_services.gateway.http.errors import invalid
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.json_body import parse_json, validated
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.parameters import CHAT, PLAIN, RESPONSES
from quire_services.gateway.openai.response_api.response_request import Lookup

from .element_counts import check_elements
from .request_reader import COUNT, INPUT_TOKENS, MESSAGES, ReadRequest, RequestReader

TOKENIZE, DETOKENIZE = "tokenize", "detokenize"
RENDERS = {
    "render_chat": CHAT,
    "render_completions": PLAIN,
    "render_messages": MESSAGES,
    "render_responses": RESPONSES,
}
PROMPT_APIS = frozenset({TOKENIZE, DETOKENIZE, COUNT, INPUT_TOKENS, *RENDERS})
_Read = Callable[[str, bytes | bytearray, str, Callable[[], Limits], Lookup], ReadRequest | None]
MAX_TOLD = 1 << 20  # tokens in an answer
MAX_TOLD_CHARS = 4 << 20  # of text in an answer


class TokenizeBody(BaseModel):
    """``POST /tokenize``: a prompt, or messages with what else makes a chat's prompt."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str | None = None
    prompt: str | None = None
    messages: Any = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(BaseModel):
    """``POST /detokenize``."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str | None = None
    tokens: list[Any]


def prompt_answer(
    reader: RequestReader,
    api: str,
    raw: bytes | bytearray,
    tenant: str,
    limits: Callable[[], Limits],
    lookup: Lookup,
) -> bytes:
    """The answer to a request of one of ``PROMPT_APIS``, as JSON. Raises ApiError, also what ``limits`` and ``lookup``
    raise."""
    told = _told(reader, reader.read, api, raw, tenant, limits, lookup)
    assert told is not None
    return told


def prompt_answer_here(
    reader: RequestReader,
    api: str,
    raw: bytes | bytearray,
    tenant: str,
    limits: Callable[[], Limits],
    lookup: Lookup,
) -> bytes | None:
    """The same in the gateway's loop; None for what takes too long for it."""
    if api == TOKENIZE and reader.brings_template(parse_json(raw)):
        return None
    return _told(reader, reader.read_here, api, raw, tenant, limits, lookup)


def _told(
    reader: RequestReader,
    read: _Read,
    api: str,
    raw: bytes | bytearray,
    tenant: str,
    limits: Callable[[], Limits],
    lookup: Lookup,
) -> bytes | None:
    if api == TOKENIZE:
        return orjson.dumps(_tokenized(reader, parse_json(raw), tenant, limits))
    if api == DETOKENIZE:
        return orjson.dumps(_detokenized(reader, parse_json(raw), limits))
    found = read(RENDERS.get(api, api), raw, tenant, limits, lookup)
    if found is None:
        return None
    if api == COUNT:
        return orjson.dumps({"input_tokens": len(found.prompts[0])})
    if api == INPUT_TOKENS:
        return orjson.dumps({"object": "response.input_tokens", "input_tokens": len(found.prompts[0])})
    rendered = [_rendered(reader, found.body.model, prompt) for prompt in found.prompts]
    _check_told(sum(map(len, found.prompts)), sum(len(one["text"]) for one in rendered))
    return orjson.dumps(rendered if RENDERS[api] == PLAIN else rendered[0])


def _tokenized(reader: RequestReader, document: Any, tenant: str, limits: Callable[[], Limits]) -> dict[str, Any]:
    body = validated(TokenizeBody, document)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("either 'prompt' or 'messages' must be given", "prompt")
    model = reader.known_model(body.model)
    tokens: Sequence[int]
    if body.prompt is not None:
        tokens, found = reader.encoder.encode(body.prompt, body.add_special_tokens is not False), limits()
    else:
        check_elements(document)
        fields = {name: value for name, value in document.items() if name != "return_token_strs"}
        read = reader.chat(validated(ChatBody, fields | {"model": model}), tenant, limits, fits=False)
        tokens, found = read.prompts[0], read.limits
    _check_told(len(tokens))
    answer = {"count": len(tokens), "max_model_len": found.max_model_len, "tokens": list(tokens), "token_strs": None}
    if body.return_token_strs:
        names = [reader.encoder.backend.id_to_token(token) for token in tokens]
        _check_told(len(names), sum(len(name or "") for name in names))
        answer["token_strs"] = names
    return answer


def _detokenized(reader: RequestReader, document: Any, limits: Callable[[], Limits]) -> dict[str, Any]:
    body = validated(DetokenizeBody, document)
    reader.known_model(body.model)
    _check_told(len(body.tokens))
    vocabulary = limits().vocab_size
    for place, token in enumerate(body.tokens):
        if type(token) is not int or not 0 <= token < vocabulary:
            raise invalid(f"tokens[{place}]: must be a token id below {vocabulary}", f"tokens[{place}]")
    text = reader.encoder.decode(body.tokens)
    _check_told(0, len(text))
    return {"prompt": text}


def _rendered(reader: RequestReader, model: str, prompt: Sequence[int]) -> dict[str, Any]:
    tokens = list(prompt)
    return {"model": model, "token_ids": tokens, "text": reader.encoder.decode(tokens)}


def _check_told(tokens: int, characters: int = 0) -> None:
    """Raise ApiError for more than an answer may have."""
    if tokens > MAX_TOLD or characters > MAX_TOLD_CHARS:
        raise invalid(f"the answer would have more than {MAX_TOLD} tokens or {MAX_TOLD_CHARS} characters")
