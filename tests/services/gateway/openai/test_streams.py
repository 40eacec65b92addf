"""Server-sent events: their order, usage, and how a stream ends."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine
from tests.support.waits import wait_for

MESSAGES: list[Any] = [{"role": "user", "content": "the quick fox"}]


def events(response: httpx.Response) -> list[str]:
    """The data of each event."""
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def test_a_stream_begins_with_the_role_and_ends_with_done(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """First the role, then text, last the reason to finish; no usage unless it is asked for; then [DONE]."""
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 5, "stream": True}
    response = gateway.http.post("/v1/chat/completions", json=body)

    assert response.headers["content-type"].startswith("text/event-stream")
    *data, done = events(response)
    assert done == "[DONE]"
    chunks = [json.loads(item) for item in data]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any("usage" in chunk for chunk in chunks)


def test_tokens_that_came_together_are_events_of_their_own(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """A stream is cut in the same places, whether an engine sent its tokens one by one or in one output."""
    body = {"model": "tiny", "prompt": "the quick fox", "max_tokens": 6, "stream": True, "logprobs": 0}
    one_by_one = events(gateway.http.post("/v1/completions", json=body))
    engine.together = 4
    assert [_cut(one) for one in events(gateway.http.post("/v1/completions", json=body))] == [
        _cut(one) for one in one_by_one
    ]
    assert len(one_by_one) == 7


def _cut(event: str) -> Any:
    return event if event == "[DONE]" else json.loads(event)["choices"]


def test_usage_comes_in_a_chunk_of_its_own(client: openai.OpenAI, engine: PeerEngine) -> None:
    """With include_usage the last chunk has no choices and the whole usage; the others have none."""
    engine.cached_tokens = 3
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=5, n=2, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)

    assert all(chunk.usage is None for chunk in chunks)
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1}
    assert last.choices == []
    assert last.usage.completion_tokens == 10
    assert last.usage.prompt_tokens == len(engine.requests[0].tokens) // 4
    assert last.usage.prompt_tokens_details.cached_tokens == 3


def test_a_stream_says_the_same_as_a_whole_answer(client: openai.OpenAI, engine: PeerEngine) -> None:
    """Joined pieces are the text of the whole answer, for every choice of both APIs."""
    chat: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 30, "n": 3}
    whole = client.chat.completions.create(**chat)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**chat, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]

    plain: dict[str, Any] = {"model": "tiny", "prompt": ["lazy dog", "jugs"], "max_tokens": 9, "logprobs": 0}
    first = client.completions.create(**plain)
    pieces, tokens = ["", ""], [0, 0]
    for piece in client.completions.create(**plain, stream=True):
        pieces[piece.choices[0].index] += piece.choices[0].text
        tokens[piece.choices[0].index] += len(piece.choices[0].logprobs.tokens)
    assert pieces == [choice.text for choice in first.choices]
    assert tokens == [9, 9]


def test_choices_of_one_step_are_sent_together(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """What a step adds to the choices of a request is one piece on the wire, each choice an event of its own."""
    body = {
        "model": "tiny",
        "prompt": "the quick fox",
        "max_tokens": 5,
        "n": 4,
        "stream": True,
        "return_token_ids": True,
    }
    payload = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as wire:
        wire.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    pieces = chunked(answer.partition(b"\r\n\r\n")[2])

    counts = [piece.count(b"data: {") for piece in pieces]
    assert sum(counts) == 20
    assert all(count % 4 == 0 for count in counts), "a reader that is behind may find several steps"
    assert pieces[-1] == b"data: [DONE]\n\n"


def chunked(body: bytes) -> list[bytes]:
    """The pieces of a body in chunked transfer coding."""
    pieces = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if length:
            pieces.append(body[:length])
        body = body[length + 2 :]
    return pieces


def test_an_engine_that_dies_ends_the_stream_with_an_error(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    """What was sent stays; the official client raises the error event; the log says 5xx."""
    engine = gateway.engine()
    engine.steps = 4
    stream = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=400, stream=True)
    next(iter(stream))
    engine.close()
    with pytest.raises(openai.APIError, match="engine that worked on this request is gone"):
        list(stream)
    assert gateway.health()["status"] == "unavailable"
    wait_for(lambda: ("5xx", 200) in [(x.get("outcome"), x.get("status")) for x in gateway.lines()], "it is logged")


def test_an_error_of_the_engine_ends_the_stream_without_done(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """The last event is the error object; [DONE] is not sent."""
    engine.steps = 2
    body = {"model": "tiny", "prompt": "the quick fox", "max_tokens": 400, "stream": True}
    with gateway.http.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        engine.fail_all("no_room", "the pool is full")
        data = [line.removeprefix("data: ") for line in lines if line]

    assert json.loads(data[-1])["error"]["code"] == "no_room"
    assert "[DONE]" not in data
