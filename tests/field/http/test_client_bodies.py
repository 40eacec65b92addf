"""Bodies as clients really send them: numbers, parts and histories that cannot be misread are served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from quire_proto.wire.u32 import unpack_u32
from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine

HEADERS = {"content-type": "application/json"}
USER = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def engine(gateway: GatewayProcess) -> Iterator[PeerEngine]:
    peer = gateway.engine()
    yield peer
    peer.close()


class Client:
    """Sends bodies as they are."""

    def __init__(self, gateway: GatewayProcess, engine: PeerEngine) -> None:
        self.gateway, self.engine = gateway, engine

    def post(self, path: str, **body: Any) -> httpx.Response:
        content = json.dumps({"model": "tiny"} | body)
        return self.gateway.http.post(f"/v1/{path}", content=content, headers=HEADERS)

    def plain(self, **body: Any) -> httpx.Response:
        return self.post("completions", **({"prompt": "the fox", "max_tokens": 2} | body))

    def chat(self, *messages: Any, **body: Any) -> httpx.Response:
        return self.post("chat/completions", **({"messages": messages or [USER], "max_tokens": 1} | body))

    def prompt(self) -> str:
        """What the engine was given last."""
        text: str = self.gateway.tokenizer().decode(
            unpack_u32(self.engine.requests[-1].tokens), skip_special_tokens=False
        )
        return text


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess, engine: PeerEngine) -> Client:
    return Client(gateway, engine)


@pytest.mark.source("BerriAI/litellm#1854")
@pytest.mark.parametrize(
    ("name", "sent", "field", "meant"),
    [
        ("max_tokens", 8.0, "max_tokens", 8),
        ("min_tokens", 1.0, "min_tokens", 1),
        ("top_k", 50.0, "top_k", 50),
        ("seed", 1.0, "seed", 1),
        ("seed", -1e3, "seed", -1000 & 2**63 - 1),
        ("temperature", 1, "temperature", 1.0),
        ("top_p", 1, "top_p", 1.0),
        ("min_p", 0, "min_p", 0.0),
        ("logprobs", 2.0, "logprobs", 3),
        ("logprobs", True, "logprobs", 2),
        ("logprobs", False, "logprobs", 0),
    ],
)
def test_numbers_that_cannot_be_misread_are_served(
    client: Client, name: str, sent: object, field: str, meant: object
) -> None:
    """A whole number written as a float, an integer where a float belongs, ``logprobs: true``: the engine gets it."""
    assert client.plain(**{name: sent}).status_code == 200
    assert getattr(client.engine.requests[-1].sampling, field) == meant


@pytest.mark.source("BerriAI/litellm#1854")
@pytest.mark.parametrize("api", ["completions", "chat/completions"])
@pytest.mark.parametrize(
    ("name", "sent"),
    [
        *((name, True) for name in ("n", "max_tokens", "seed", "top_k", "temperature", "top_p", "min_tokens")),
        *((name, "5") for name in ("n", "max_tokens", "seed", "top_k", "temperature", "top_p", "stop_token_ids")),
        ("n", 1.5), ("max_tokens", 0), ("max_tokens", -2), ("max_tokens", -1.5), ("seed", 2.0**60), ("seed", 2**63),
        ("n", 10**400), ("temperature", 10**400), ("temperature", float("nan")), ("top_p", float("inf")),
        ("top_p", -0.1), ("top_k", 1e400), ("stop", [None]), ("stop", [5]), ("stream", "true"), ("stream", 1),
    ],
)  # fmt: skip
def test_what_can_be_misread_is_refused_with_a_sentence(client: Client, api: str, name: str, sent: object) -> None:
    """Booleans and strings for numbers, halves, and numbers that a float may have rounded: 400, by name."""
    answer = client.post(api, messages=[USER], **{name: sent}) if "chat" in api else client.plain(**{name: sent})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(name)
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.source("lmstudio-ai/lmstudio-bug-tracker#1829")
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_minus_one_is_no_limit(client: Client, name: str) -> None:
    """All that there is room for, which without it only chat would get."""
    assert client.chat(**{"max_tokens": None, name: -1}).status_code == 200
    chat = client.engine.requests[-1]
    assert chat.sampling.max_tokens == 512 - len(unpack_u32(chat.tokens))
    if name == "max_tokens":
        assert client.plain(max_tokens=-1.0, prompt=[5] * 100).status_code == 200
        assert client.engine.requests[-1].sampling.max_tokens == 412


@pytest.mark.source("huggingface/text-generation-inference#2228; EvolvingLMMs-Lab/lmms-eval#1265")
def test_an_empty_nucleus_is_the_most_likely_token(client: Client) -> None:
    """``top_p: 0`` is answered as OpenAI does: greedily, whatever the temperature."""
    assert client.plain(top_p=0, temperature=1.5).status_code == 200
    how = client.engine.requests[-1].sampling
    assert (how.temperature, how.top_p) == (0.0, 1.0)


@pytest.mark.source("vllm-project/vllm#29175; langchain-ai/langchain#34751")
@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "fox"},
        {"type": "input_text", "text": "fox"},
        {"type": "output_text", "text": "fox", "annotations": []},
        {"type": "refusal", "refusal": "fox"},
        {"type": "thinking", "thinking": "fox", "closed": True},
        {"type": "reasoning", "reasoning": "fox"},
        "fox",
    ],
    ids=lambda part: part if isinstance(part, str) else part["type"],
)
@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
def test_parts_that_are_text_reach_the_model(client: Client, part: object, role: str) -> None:
    """Parts of both OpenAI APIs, of earlier answers, and bare strings, in a message of any role."""
    message = {"role": role, "content": [{"type": "text", "text": "the quick"}, part], "tool_call_id": "c"}
    assert client.chat(message, USER).status_code == 200
    assert f"<|{role}|>the quick\nfox" in client.prompt() or role == "tool"
    assert "the quick\nfox" in client.prompt()


@pytest.mark.source("vllm-project/vllm#55479")
def test_a_refusal_in_the_history_reaches_the_model(client: Client) -> None:
    """An answer that was refused comes back with its words in ``refusal`` and no content."""
    said = {"role": "assistant", "content": None, "refusal": "lazy dog"}
    assert client.chat(USER, said, USER).status_code == 200
    assert "<|assistant|>lazy dog" in client.prompt()


@pytest.mark.source("vllm-project/vllm#41121")
@pytest.mark.parametrize("kind", ["image_url", "input_image", "input_audio", "file", "video_url", "tool_use", None, 5])
def test_parts_that_are_no_text_are_refused_by_name(client: Client, kind: object) -> None:
    """The message says which part, and of which type; it is never dropped."""
    answer = client.chat({"role": "user", "content": [{"type": "text", "text": "see"}, {"type": kind}]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "messages[0].content", "unsupported_content")
    assert f"messages[0].content[1] is a part of type {kind!r}" in error["message"]


@pytest.mark.source("raullenchai/Rapid-MLX#798")
@pytest.mark.parametrize("depth", [500, 900, 5_000, 200_000])
def test_nested_arguments_of_a_call_are_no_error_of_ours(client: Client, depth: int) -> None:
    """Arguments arrive as text: what no reader of JSON can take is refused, not a 500."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[" * depth + "]" * depth}}
    assert client.chat(USER, {"role": "assistant", "content": None, "tool_calls": [call]}, USER).status_code == 400


@pytest.mark.source("raullenchai/Rapid-MLX#798")
@pytest.mark.parametrize("depth", [101, 300, 900, 20_000])
@pytest.mark.parametrize("place", ["tools", "metadata", "chat_template_kwargs", "messages", "something_new"])
def test_a_body_without_end_is_refused(client: Client, place: str, depth: int) -> None:
    """Whatever is nested deeper than a hundred levels is refused, by its name as long as it can be read."""
    whole = json.dumps({"model": "tiny", "messages": [USER]} | {place: "DEEP"})
    content = whole.replace('"DEEP"', "[" * depth + "]" * depth)
    answer = client.gateway.http.post("/v1/chat/completions", content=content, headers=HEADERS)
    assert answer.status_code == 400
    assert depth >= 900 or answer.json()["error"]["param"] == place
