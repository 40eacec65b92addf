"""No body, whatever it holds, gets an answer that is not OpenAI's: 200, or 400 with the error object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quire_services.gateway.openai.bodies import ChatBody, CompletionBody
from quire_services.gateway.openai.parameters import PARAMETERS
from tests.services.gateway.openai.test_errors import CHAT, JSON, PLAIN, chat, error_of, plain
from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine

NAMES = sorted({*ChatBody.model_fields, *CompletionBody.model_fields, *(row.name for row in PARAMETERS)})
HALF = "\ud800"
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([10**400, -(10**400), 2**63, -(2**63) - 1, 1e308, float("inf"), float("nan"), 8.0, 0.5, -0.0]),
    st.sampled_from(["", "tiny", "hi", "5", HALF, "\0", "auto", "function", "text", "x" * 2000]),
    st.text(max_size=5),
)
keys = st.sampled_from(
    ["role", "content", "type", "text", "name", "function", "arguments", "tool_calls", "id", "", HALF]
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
part = st.fixed_dictionaries({"type": st.sampled_from(["text", "refusal", "image_url", HALF]) | scalars}, optional={
    "text": scalars, "refusal": scalars, "image_url": values})  # fmt: skip
call = st.fixed_dictionaries({}, optional={
    "id": scalars, "type": scalars,
    "function": values | st.fixed_dictionaries({"name": scalars, "arguments": values | st.just("[" * 5000)}),
})  # fmt: skip
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system"]) | scalars}, optional={
    "content": scalars | st.lists(part | scalars, max_size=3) | values,
    "tool_calls": st.lists(call, max_size=2) | values, "name": scalars, "tool_call_id": values,
})  # fmt: skip
messages = st.lists(message, max_size=3) | values
bodies = st.builds(
    lambda base, changes: base | changes,
    st.sampled_from([chat(), plain()]),
    st.dictionaries(st.sampled_from(NAMES), values, max_size=4) | st.fixed_dictionaries({"messages": messages}),
)


@pytest.fixture(scope="module")
def engine(gateway: GatewayProcess) -> Iterator[PeerEngine]:
    peer = gateway.engine()
    yield peer
    peer.close()


def send(gateway: GatewayProcess, body: Any) -> httpx.Response:
    """To the API that the body is for."""
    path = CHAT if isinstance(body, dict) and "messages" in body else PLAIN
    return gateway.http.post(path, content=json.dumps(body), headers=JSON)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies | values)
@example(chat(messages={}))
@example(chat(messages=[{"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": HALF}}]}]))
@example(chat(tools=[{"type": "function", "function": {"name": HALF}}]))
@example(chat(model=HALF))
@example(chat(stop=[HALF]))
@example(chat(chat_template_kwargs={HALF: 1, "self": 1}))
@example(chat(metadata=10**400, temperature=10**400))
@example(chat(max_tokens=float("inf"), stream=True))
@example({"model": "tiny", "stream": True, "prompt": [HALF]})
def test_any_body_is_answered(gateway: GatewayProcess, engine: PeerEngine, body: Any) -> None:
    """Wrong types, wild numbers and half characters at any place: answered, or refused with the error object."""
    answer = send(gateway, body)

    if answer.status_code != 200:
        error_of(answer, answer.status_code)
    assert answer.status_code in (200, 400) or (answer.status_code, body["model"] != "tiny") == (404, True)


def test_what_a_message_quotes_is_bounded(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """A model's name of a megabyte is not sent back."""
    answer = send(gateway, chat(model="x" * 1_000_000))
    assert len(error_of(answer, 404)["message"]) < 1000
