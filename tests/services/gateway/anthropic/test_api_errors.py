"""Errors, keys and versions of Anthropic's API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types.shared import ErrorResponse

from quire_proto.gateway_link import MAX_GRAMMAR
from tests.services.gateway.anthropic.test_messages import ask
from tests.support.gateway import GatewayProcess, Start
from tests.support.puppet_stage import Stage

PATH = "/v1/messages"
JSON = {"content-type": "application/json"}
BODY = ask("text", tools=[])
KEYS = '[[tenants]]\nname = "acme"\nkeys = ["sk-acme"]\n'


def error_of(response: httpx.Response, status: int, kind: str) -> str:
    """The sentence of an error with this status and type, in the shape of the API."""
    assert response.status_code == status, response.text
    said = response.json()
    if kind != "request_too_large":  # documented, but not among the client's types
        ErrorResponse.model_validate(said, strict=True)
    assert (set(said), set(said["error"]) - {"details"}) == ({"type", "error", "request_id"}, {"type", "message"})
    assert (said["type"], said["error"]["type"]) == ("error", kind)
    return str(said["error"]["message"])


def test_each_class_of_error_has_its_type(stage: Stage) -> None:
    """Whoever finds it: the edge, the reader, the framework, an engine."""
    http, wrong = stage[0].http, "invalid_request_error"
    assert "max_tokens" in error_of(http.post(PATH, json={"model": "tiny", "messages": BODY["messages"]}), 400, wrong)
    assert "JSON" in error_of(http.post(PATH, content=b"{", headers=JSON), 400, wrong)
    assert "content-type" in error_of(http.post(PATH, content=b"{}"), 400, wrong)
    assert "'gpt-4'" in error_of(http.post(PATH, json=BODY | {"model": "gpt-4"}), 404, "not_found_error")
    error_of(http.get(PATH), 405, wrong)
    error_of(http.post(PATH + "/nothing", json=BODY), 404, "not_found_error")
    error_of(http.post(PATH, content=b"x" * (5 << 20), headers=JSON), 413, "request_too_large")
    long = BODY | {"messages": [{"role": "user", "content": "x" * 20_000}]}
    assert "16384 tokens" in error_of(http.post(PATH, json=long), 400, wrong)
    assert "nested" in error_of(http.post(PATH, json=BODY | {"metadata": _nested(200)}), 400, wrong)
    half = json.dumps(BODY | {"messages": [{"role": "user", "content": [{"type": "\ud800"}]}]})
    error_of(http.post(PATH, content=half, headers=JSON), 400, wrong)


def test_more_blocks_than_a_request_may_have_are_refused(stage: Stage) -> None:
    """Those of a tool's result count as well."""
    inner = [{"type": "text", "text": ""}] * 66_000
    many = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": inner}]}]
    answer = stage[0].http.post(PATH, json=BODY | {"messages": many})
    assert "66000 are more" in error_of(answer, 400, "invalid_request_error")


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", None])
def test_either_version_is_served(stage: Stage, version: str | None) -> None:
    headers = {"anthropic-version": version} if version else {}
    assert stage[0].http.post(PATH, json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize("path", [PATH, PATH + "/count_tokens"])
def test_another_version_is_refused(stage: Stage, path: str) -> None:
    answer = stage[0].http.post(path, json=BODY, headers={"anthropic-version": "2023-01-01"})
    assert "'2023-01-01'" in error_of(answer, 400, "invalid_request_error")


def test_without_engines_it_is_overloaded(start: Start) -> None:
    """And says when to try again."""
    answer = start("--hold-s=0").http.post(PATH, json=BODY)
    error_of(answer, 503, "overloaded_error")
    assert int(answer.headers["retry-after"]) >= 1


def test_the_key_comes_in_either_header(model: Path, tmp_path: Path) -> None:
    """As one client sends it or the other; a wrong one is refused in the shape of this API, and no key as well."""
    config = tmp_path / "quire.toml"
    config.write_text(KEYS)
    process = GatewayProcess(model, config=config).wait()
    try:
        process.engine()
        asked: Any = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
        for headers in ({"x-api-key": "sk-acme"}, {"authorization": "Bearer sk-acme"}):
            assert process.http.post(PATH, json=asked, headers=headers).status_code == 200
            assert process.http.get("/v1/models", headers=headers).status_code == 200
        for headers in ({}, {"x-api-key": "sk-other"}, {"x-api-key": ""}, {"authorization": "sk-acme"}):
            error_of(process.http.post(PATH, json=asked, headers=headers), 401, "authentication_error")
        with anthropic.Anthropic(base_url=process.url, api_key="sk-acme", max_retries=0) as client:
            assert client.messages.create(**asked).usage.output_tokens == 1
        with anthropic.Anthropic(base_url=process.url, auth_token="sk-no", max_retries=0) as client:
            with pytest.raises(anthropic.AuthenticationError):
                client.messages.create(**asked)
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"const": "x" * MAX_GRAMMAR}}}},
            "output_config.format",
        ),
        ({"output_config": {"effort": "low"}}, "'output_config.effort'"),
    ],
    ids=["format", "effort"],
)
def test_an_error_speaks_of_what_the_client_has_sent(stage: Stage, fields: dict[str, Any], word: str) -> None:
    """And not of the chat that the request has become."""
    answer = stage[0].http.post(PATH, content=json.dumps(BODY | fields), headers=JSON)
    assert word in error_of(answer, 400, "invalid_request_error")


def test_the_code_of_an_error_is_in_its_details(stage: Stage) -> None:
    """By it a client of threads knows that it has to send the whole conversation."""
    answer = stage[0].http.post(PATH, json=BODY | {"thread": {"type": "create"}})
    error_of(answer, 400, "invalid_request_error")
    assert answer.json()["error"]["details"] == {"error_code": "thread_unsupported_request"}


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value
