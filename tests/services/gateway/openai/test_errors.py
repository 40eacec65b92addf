"""Every class of error has its status and the OpenAI shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.services.gateway.test_engines import Background
from tests.support.gateway import GatewayProcess, Start, write_tokenizer
from tests.support.peer_engine import PeerEngine
from tests.support.waits import wait_for

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "hi"}


def chat(**changes: Any) -> dict[str, Any]:
    """A chat body."""
    return {"model": "tiny", "messages": [USER], "max_tokens": 1} | changes


def plain(**changes: Any) -> dict[str, Any]:
    """A completion body."""
    return {"model": "tiny", "prompt": "hi", "max_tokens": 1} | changes


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of a response with ``status``; it has all four fields."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return error


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat(messages=[]), "messages"),
        (CHAT, {"model": "tiny"}, "messages"),
        (CHAT, {"messages": [USER]}, "model"),
        (CHAT, chat(messages="hi"), "messages"),
        (CHAT, chat(messages=[{"role": "alien", "content": "hi"}]), "messages[0].role"),
        (CHAT, chat(messages=[USER, {"role": "user", "content": 5}]), "messages[1].content"),
        (CHAT, chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content"),
        (CHAT, chat(messages=[{"role": "function", "content": "x"}]), "messages"),
        (CHAT, chat(max_tokens="5"), "max_tokens"),
        (CHAT, chat(max_tokens=0), "max_tokens"),
        (CHAT, chat(temperature=2.5), "temperature"),
        (CHAT, chat(temperature=True), "temperature"),
        (CHAT, chat(top_p=-0.1), "top_p"),
        (CHAT, chat(n=65), "n"),
        (CHAT, chat(stop=5), "stop"),
        (CHAT, chat(stop=""), "stop"),
        (CHAT, chat(stop=["x"] * 17), "stop"),
        (CHAT, chat(top_logprobs=3), "top_logprobs"),
        (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs"),
        (CHAT, chat(stream_options={"include_usage": True}), "stream_options"),
        (CHAT, chat(presence_penalty=2.5), "presence_penalty"),
        (CHAT, chat(frequency_penalty=-2.5), "frequency_penalty"),
        (CHAT, chat(repetition_penalty=0), "repetition_penalty"),
        (CHAT, chat(repetition_penalty=101), "repetition_penalty"),
        (CHAT, chat(logit_bias={"5": 101}), "logit_bias.5"),
        (CHAT, chat(logit_bias={"5": "10"}), "logit_bias.5"),
        (CHAT, chat(logit_bias={"320": 10}), "logit_bias"),
        (CHAT, chat(logit_bias={"-1": 10}), "logit_bias"),
        (CHAT, chat(logit_bias={"05": 10}), "logit_bias"),
        (CHAT, chat(logit_bias={"the": 10}), "logit_bias"),
        (CHAT, chat(logit_bias={str(i): 1 for i in range(1025)}), "logit_bias"),
        (CHAT, chat(logit_bias=[5]), "logit_bias"),
        (CHAT, chat(allowed_token_ids=[320]), "allowed_token_ids"),
        (CHAT, chat(allowed_token_ids=[-1]), "allowed_token_ids[0]"),
        (CHAT, chat(allowed_token_ids=[1] * 1025), "allowed_token_ids"),
        (CHAT, chat(bad_words=["fox", ""]), "bad_words[1]"),
        (CHAT, chat(bad_words=["  "]), "bad_words"),
        (CHAT, chat(bad_words="fox"), "bad_words"),
        (CHAT, chat(bad_words=["x" * 129]), "bad_words[0]"),
        (CHAT, chat(bad_words=["x"] * 129), "bad_words"),
        (CHAT, chat(bad_words=["🙂" * 100 + str(i) for i in range(3)]), "bad_words"),
        (CHAT, chat(include_stop_str_in_output=1), "include_stop_str_in_output"),
        (CHAT, chat(chat_template_kwargs={"tokenize": True}), "chat_template_kwargs"),
        (PLAIN, plain(prompt=""), "prompt"),
        (PLAIN, plain(prompt=[]), "prompt"),
        (PLAIN, plain(prompt=[[]]), "prompt"),
        (PLAIN, plain(prompt=["hi", 5]), "prompt"),
        (PLAIN, plain(prompt=[1, "hi"]), "prompt"),
        (PLAIN, plain(prompt=[-1]), "prompt"),
        (PLAIN, plain(prompt=[True]), "prompt"),
        (PLAIN, plain(prompt=[320]), "prompt"),
        (PLAIN, plain(prompt=None), "prompt"),
        (PLAIN, plain(prompt="\ud800"), None),
        (PLAIN, plain(prompt=["x"] * 17, n=64), "prompt"),
        (PLAIN, plain(best_of=65), "best_of"),
        (PLAIN, plain(best_of=2, n=3), "best_of"),
        (PLAIN, plain(best_of=2, stream=True), "best_of"),
        (PLAIN, plain(prompt=["x"] * 17, best_of=64), "prompt"),
        (PLAIN, plain(length_penalty=2), "length_penalty"),
        (CHAT, chat(early_stopping=True), "early_stopping"),
        (CHAT, chat(use_beam_search=True, early_stopping="often"), "early_stopping"),
        (CHAT, chat(use_beam_search=True, n=2, length_penalty=11), "length_penalty"),
        (CHAT, chat(use_beam_search=True, n=2, stream=True), "stream"),
        (CHAT, chat(use_beam_search=True, n=2, stop="x"), "stop"),
        (CHAT, chat(use_beam_search=True, n=2, temperature=0.5), "temperature"),
        (CHAT, chat(use_beam_search=True, n=2, logit_bias={"5": 1}), "logit_bias"),
        (PLAIN, plain(use_beam_search=True, n=2, echo=True, logprobs=1), "echo"),
        (PLAIN, plain(echo=True, logprobs=1, prompt=[9] * 200, n=64), "echo"),
        (PLAIN, plain(prompt_logprobs=1, prompt=[9] * 200, n=64), "prompt_logprobs"),
        (PLAIN, plain(prompt_logprobs=20, prompt=[9] * 400, n=8), "prompt_logprobs"),
        (PLAIN, plain(prompt_logprobs=1, stream=True), "prompt_logprobs"),
        (PLAIN, plain(prompt_logprobs=-1), "prompt_logprobs"),
        (CHAT, chat(prompt_logprobs=21), "prompt_logprobs"),
        (CHAT, chat(continue_final_message=True, add_generation_prompt=True), "continue_final_message"),
        (CHAT, chat(continue_final_message="content"), "continue_final_message"),
        (CHAT, chat(prompt_logprobs=True), "prompt_logprobs"),
        (PLAIN, plain(max_tokens=0), "max_tokens"),
        (PLAIN, plain(max_tokens=0, echo=True, min_tokens=1), "min_tokens"),
        (PLAIN, plain(logprobs=6), "logprobs"),
        (PLAIN, plain(suffix="end"), "suffix"),
        (PLAIN, plain(min_tokens=2), "min_tokens"),
        (PLAIN, plain(stop_token_ids=[320]), "stop_token_ids"),
        (PLAIN, [], None),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_a_wrong_request_is_answered_400(
    gateway: GatewayProcess, engine: PeerEngine, path: str, body: Any, param: str | None
) -> None:
    """The field that is wrong is named, and no engine ever hears of the request."""
    error = error_of(gateway.http.post(path, content=json.dumps(body), headers=JSON), 400)

    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert engine.requests == []


def test_neutral_and_unknown_parameters_are_accepted(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Values that change nothing, nulls and unknown fields do not disturb."""
    body = chat(
        presence_penalty=0, frequency_penalty=0.0, logit_bias={}, response_format={"type": "text"}, stop=None, n=None,
        repetition_penalty=1.0, service_tier="auto", metadata={"a": "b"}, something_new=[1], user="u", seed=None,
    )  # fmt: skip
    assert gateway.http.post(CHAT, json=body).status_code == 200


def test_malformed_json_is_answered_400(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Half a body, no body and nesting without end are the client's errors."""
    for content in (b'{"model": ', b"", b"[" * 100_000, b'{"model": "\xff"}', b"1" * 10_000):
        error_of(gateway.http.post(CHAT, content=content, headers=JSON), 400)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_must_say_that_it_is_json(gateway: GatewayProcess, engine: PeerEngine, kind: str | None) -> None:
    """What any web page could send across origins is refused before it is read."""
    headers = {"content-type": kind} if kind else {}
    response = gateway.http.post(CHAT, content=json.dumps(chat()), headers=headers)

    assert error_of(response, 400)["code"] == "unsupported_content_type"
    assert engine.requests == []


def test_a_body_that_is_too_large_is_refused(gateway: GatewayProcess) -> None:
    """More than the limit is 413, before it is parsed."""
    content = b'{"model": "' + b"x" * (33 * 1024 * 1024) + b'"}'
    assert error_of(gateway.http.post(CHAT, content=content, headers=JSON), 413)["code"] == "body_too_large"


def test_what_does_not_fit_the_model_says_so(client: openai.OpenAI, engine: PeerEngine) -> None:
    """Prompt and max_tokens beyond the model's length have OpenAI's code for it, and the words clients look for."""
    for prompt, asked in (([5] * 512, 1), ([5] * 100, 413)):
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="tiny", prompt=prompt, max_tokens=asked)
        assert refused.value.code == "context_length_exceeded"
        assert "maximum context length is 512 tokens" in refused.value.message
    assert client.completions.create(model="tiny", prompt=[5] * 100, max_tokens=412).usage.completion_tokens == 412


def test_unknown_things_are_answered_404(client: openai.OpenAI, gateway: GatewayProcess, engine: PeerEngine) -> None:
    """A model and a path that are not here."""
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4", messages=[USER])  # type: ignore[list-item]
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/gpt-4")
    assert error_of(gateway.http.get("/nothing"), 404)["code"] == "not_found"
    assert error_of(gateway.http.get(CHAT), 405)["code"] == "method_not_allowed"


def test_errors_of_the_engine_have_a_status_each(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """What an engine reports before the first token becomes an HTTP status."""
    engine.steps = 0
    expected = {"too_long": 400, "no_space": 429, "no_room": 503, "internal": 500}
    for number, (code, status) in enumerate(expected.items(), 1):
        waiting = Background(gateway)
        wait_for(lambda number=number: len(engine.requests) == number, "the request")
        engine.fail_all(code, "no")
        error_of(waiting.result(), status)
        assert ("retry-after" in waiting.result().headers) == (status in (429, 503))


def test_a_model_without_template_serves_completions_only(tmp_path: Path) -> None:
    """Chat is refused with a hint."""
    write_tokenizer(tmp_path, template=False)
    process = GatewayProcess(tmp_path).wait()
    try:
        process.engine()
        assert error_of(process.http.post(CHAT, json=chat()), 400)["code"] == "no_chat_template"
        assert process.http.post(PLAIN, json=plain()).status_code == 200
    finally:
        process.stop()


def test_a_full_queue_is_answered_429(start: Start) -> None:
    """With as many requests waiting as may wait, the next is refused with Retry-After; a token makes room."""
    process = start("--max-queue", "1")
    engine = process.engine()
    engine.steps = 0
    first = Background(process, stream=True, max_tokens=50)
    wait_for(lambda: len(engine.requests) == 1, "the first request")
    refused = process.http.post(PLAIN, json=plain())
    assert error_of(refused, 429)["code"] == "queue_full"
    assert refused.headers["retry-after"] == "1"
    engine.steps = 1
    wait_for(lambda: process.http.post(PLAIN, json=plain()).status_code == 200, "room again")
    engine.steps = None
    assert first.result().text.endswith("data: [DONE]\n\n")
