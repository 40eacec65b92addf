"""One trace for a request, from its HTTP head through gateway, engines and kvstore, as an OTLP receiver gets it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from tests.support.otlp_receiver import Told
from tests.support.traced_stack import CALLER, Traced, events, new_trace, traced, tree
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(300)]  # two processes and two engines
CHAT = "POST /v1/chat/completions"
ENGINE = ["kvstore allocate", "prefill", "queue"]  # and what is decoded


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with traced(tmp_path_factory.mktemp("traced")) as running:
        yield running


def only(spans: list[Told], name: str) -> Told:
    (found,) = (one for one in spans if one.name == name)
    return found


def complete(spans: list[Told], engines: int = 1) -> bool:
    """Whether all have come: the HTTP request's, which ends last, each engine's, and of each its parent."""
    names, known = [one.name for one in spans], {CALLER, *(one.id for one in spans)}
    return {CHAT, "read"} <= {*names} and names.count("generate") == engines and {one.parent for one in spans} <= known


def test_a_streamed_chat_is_one_trace_that_ends_with_its_stream(stack: Traced) -> None:
    """Parents are right from the caller's span down to the kvstore's, times are within each other, and ``gen_ai``
    says what was asked for and how much came."""
    trace = new_trace()
    answer = stack.ask(trace, stream=True, max_tokens=12, temperature=0.5, ignore_eos=True)
    assert events(answer.text)[-1]["choices"][0]["finish_reason"] == "length"

    spans = stack.received.trace(trace, complete)
    assert tree(spans) == {
        "": [CHAT],
        CHAT: ["chat tiny", "read"],
        "chat tiny": ["generate"],
        "generate": ["decode", *ENGINE],
        "kvstore allocate": ["allocate"],
    }
    assert {one.name: (one.service, one.kind) for one in spans if one.kind != "INTERNAL"} == {
        CHAT: ("quire-gateway", "SERVER"),
        "chat tiny": ("quire-gateway", "CLIENT"),
        "generate": ("quire-engine", "SERVER"),
        "kvstore allocate": ("quire-engine", "CLIENT"),
        "allocate": ("quire-kvstore", "SERVER"),
    }
    by_id = {one.id: one for one in spans}
    for one in spans:
        if outer := by_id.get(one.parent):
            assert outer.began <= one.began, (outer.name, one.name)
    http, chat, decode = only(spans, CHAT), only(spans, "chat tiny"), only(spans, "decode")
    assert http.ended >= chat.ended >= decode.ended
    assert not any(one.failed for one in spans)
    told = chat.attributes
    assert (told["gen_ai.operation.name"], told["gen_ai.provider.name"]) == ("chat", "quire")
    assert (told["gen_ai.request.model"], told["gen_ai.request.stream"]) == ("tiny", True)
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.temperature"]) == (12, 0.5)
    assert (told["gen_ai.usage.output_tokens"], told["gen_ai.response.finish_reasons"]) == (12, ["length"])
    assert told["gen_ai.usage.input_tokens"] == sum(e[1]["quire.tokens"] for e in only(spans, "prefill").events)
    assert (decode.attributes["quire.tokens"], decode.attributes["quire.finish"]) == (12, "length")
    assert only(spans, "allocate").attributes["quire.code"] == "OK"
    (line,) = (one for one in stack.gateway.lines() if one.get("trace_id") == trace)
    assert line["request_id"] == http.attributes["quire.request_id"]


def test_four_choices_are_one_prefill_and_four_decodes(stack: Traced) -> None:
    """Each with its number and its tokens, within one span of the engine."""
    trace = new_trace()
    assert stack.ask(trace, n=4, max_tokens=5, ignore_eos=True).status_code == 200

    spans = stack.received.trace(trace, complete)
    assert tree(spans)["generate"] == sorted([*ENGINE, *["decode"] * 4])
    decodes = [one.attributes for one in spans if one.name == "decode"]
    assert sorted(one["quire.index"] for one in decodes) == [0, 1, 2, 3]
    assert {one["quire.tokens"] for one in decodes} == {5}
    assert only(spans, "chat tiny").attributes["gen_ai.request.choice.count"] == 4


def test_a_stream_that_moves_has_a_span_at_each_engine_and_an_event_of_the_move(stack: Traced) -> None:
    """Handed over within one trace: offered by the one, adopted by the other, and no decode is missing."""
    for gate in stack.gates.values():
        gate.shut()
    trace, answers = new_trace(), list[Any]()
    asked = {"stream": True, "max_tokens": 30, "ignore_eos": True}
    client = threading.Thread(target=lambda: answers.append(stack.ask(trace, **asked)))
    client.start()
    first = stack.holder()
    (second,) = stack.gates.keys() - {first}
    stack.gates[first].allow(10)
    wait_for(lambda: stack.engines[first].load().counters["generated_tokens"], "it has begun", 30)
    drained = stack.admin.post(f"/engines/{first}/drain", json={})
    stack.open()
    client.join(60)
    undrained = stack.admin.post(f"/engines/{first}/undrain", json={})
    assert (drained.status_code, undrained.status_code) == (200, 200), drained.text

    assert events(answers[0].text)[-1]["choices"][0]["finish_reason"] == "length"
    spans = stack.received.trace(trace, lambda found: complete(found, 2))
    chat = only(spans, "chat tiny")
    engines = [one for one in spans if one.name == "generate"]
    assert [one.instance for one in engines] == [first, second]
    assert {one.parent for one in engines} == {chat.id}
    ((event, told),) = chat.events
    assert (event, told["quire.from"], told["quire.to"], told["quire.cause"]) == ("move", first, second, "handoff")
    assert {"kvstore offer", "offer", "kvstore adopt", "adopt"} <= {one.name for one in spans}
    assert only(spans, "offer").parent == only(spans, "kvstore offer").id
    assert sum(one.attributes["quire.tokens"] for one in spans if one.name == "decode") == 30
    assert [name for name, _ in engines[0].events] == ["given back"]


def test_a_refused_request_is_a_trace_of_the_gateway_alone(stack: Traced) -> None:
    """Its status is there and its span no failure of ours, as HTTP's conventions have it for what a client did."""
    trace = new_trace()
    assert stack.ask(trace, temperature=-1).status_code == 400

    (span,) = stack.received.trace(trace)
    assert (span.name, span.attributes["http.response.status_code"], span.failed) == (CHAT, 400, False)


def test_what_an_engine_refuses_is_an_error_with_its_code_in_both_spans(stack: Traced) -> None:
    """A grammar that cannot be compiled: the engine's span and the call's have failed, and say by what."""
    trace = new_trace()
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "(?=a)"}}}
    answer = stack.ask(trace, response_format=schema, max_tokens=5)
    assert answer.status_code == 400, answer.text

    spans = stack.received.trace(trace, complete)
    failed = {one.name: one.attributes["error.type"] for one in spans if one.failed}
    assert failed == {"chat tiny": answer.json()["error"]["code"], "generate": "grammar", "queue": "grammar"}


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" + "x" * 4000,
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "../../etc/passwd",
    ],
)
def test_what_is_no_traceparent_is_left_aside(stack: Traced, given: str) -> None:
    """The request is answered, and begins a trace of its own."""
    name = "own-" + new_trace()
    headers = {"x-request-id": name} | ({"traceparent": given} if given else {})
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 1}
    assert stack.gateway.http.post("/v1/completions", json=body, headers=headers).status_code == 200

    span = wait_for(
        lambda: next((s for s in list(stack.received.spans) if s.attributes.get("quire.request_id") == name
                      and s.kind == "SERVER" and s.service == "quire-gateway"), None), "its span has come", 30,
    )  # fmt: skip
    assert (span.parent, span.trace != "4bf92f3577b34da6a3ce929d0e0e4736") == ("", True)


def test_a_trace_that_its_caller_does_not_record_is_not_recorded_here(stack: Traced) -> None:
    """The flag of a traceparent holds; another request's span comes meanwhile."""
    silent, loud = new_trace(), new_trace()
    headers = {"traceparent": f"00-{silent}-00f067aa0ba902b7-00"}
    body = {"model": "tiny", "prompt": "hi", "max_tokens": 1}
    assert stack.gateway.http.post("/v1/completions", json=body, headers=headers).status_code == 200
    stack.ask(loud, max_tokens=1)

    stack.received.trace(loud, complete)
    assert not [one for one in stack.received.spans if one.trace == silent]


CANARY = "the-canary-sings-at-dawn"
SAID = [{"role": "user", "content": f"{CANARY} {CANARY}"}]
TOOL = {"type": "function", "function": {"name": "f", "description": CANARY, "parameters": {"type": "object"}}}
HOSTILE: list[dict[str, Any]] = [
    {},
    {"stream": True, "n": 2},
    {"tools": [TOOL], "stop": [CANARY], "user": CANARY},
    {"max_tokens": 10**6},
    {"messages": SAID * 400},
    {"messages": CANARY},
    {"messages": [{"role": CANARY, "content": CANARY}]},
    {"messages": [{"role": "function", "name": "f", "content": CANARY}]},
    {"messages": [{"role": "user", "content": [{"type": CANARY, "text": CANARY}]}]},
    {"messages": SAID * 3000},
    {"messages": [{"role": "user", "content": CANARY + "\ud800"}]},
    {"model": CANARY},
    {"temperature": CANARY},
    {"logit_bias": {CANARY: 1}},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": CANARY}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": CANARY}}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": f"(?={CANARY})"}}}},
    {"chat_template_kwargs": {CANARY: CANARY}},
]


def test_no_word_of_a_request_is_in_a_log_or_a_span(stack: Traced, capfd: pytest.CaptureFixture[str]) -> None:
    """A canary in every place of a request that holds text, answered and refused, whole, streamed and broken off, short
    and long enough for a reader: it comes back to its client, and nothing of the stack wrote it down."""
    answers = [stack.ask(new_trace(), **{"messages": SAID, "max_tokens": 4, **body}) for body in HOSTILE]
    broken = stack.gateway.http.post(
        "/v1/chat/completions",
        content=f'{{"model": "tiny", "x": "{CANARY}',
        headers={"content-type": "application/json"},
    )
    echoed = stack.gateway.http.post(
        "/v1/completions", json={"model": "tiny", "prompt": CANARY, "echo": True, "max_tokens": 1}
    )
    last = new_trace()
    stack.ask(last, max_tokens=1)
    stack.received.trace(last, complete)

    assert (broken.status_code, CANARY in echoed.text) == (400, True)
    assert {answer.status_code for answer in answers} >= {200, 400, 404}
    assert any(CANARY in answer.text for answer in answers if answer.status_code == 400)
    logs = [stack.gateway.log.read_text(), stack.kvstore_log.read_text(), *capfd.readouterr()]
    assert [text[max(0, text.find(CANARY) - 300) :][:600] for text in logs if CANARY in text] == []
    assert [one for one in stack.received.spans if CANARY in str(one)] == []
    assert not any(CANARY.encode() in raw for raw in stack.received.raw)
    assert sum('"event": "request"' in line for line in logs[0].splitlines()) >= len(HOSTILE)
