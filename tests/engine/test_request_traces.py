"""The spans of requests at an engine: however a request ends there, each of its spans ends, once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quire_engine.sequences.request_traces import MOST_CALLS, RequestTrace, RequestTraces
from quire_proto.gateway_link import Generate, Output, Sampling
from quire_proto.messages import CLAIMED
from quire_proto.wire.u32 import pack_u32
from tests.support.recorded_spans import RecordedSpans


def begun(traces: RequestTraces, n: int = 2) -> RequestTrace:
    """A request that has come."""
    message = Generate("mine:1", "t", pack_u32([1, 2, 3]), Sampling(8), n=n, trace="caller")
    trace = traces.begin(message)
    assert trace is not None
    return trace


def finish(how: str, index: int, code: str = "") -> Output:
    """The last output of a continuation."""
    return Output("mine:1", index, pack_u32([7]) if how == "stop" else b"", finish=how, code=code)


def by_its_outputs(how: str, code: str) -> Callable[[RequestTraces], None]:
    def end(traces: RequestTraces) -> None:
        traces.said(finish(how, 0, code))
        traces.said(finish(how, 1, code))

    return end


def one_then_the_other(traces: RequestTraces) -> None:
    traces.unwanted("mine:1", 1)
    traces.said(finish("stop", 0))


@pytest.mark.parametrize("until", ["queue", "prefill", "decode"])
@pytest.mark.parametrize(
    ("end", "error"),
    [
        (by_its_outputs("stop", ""), ""),
        (by_its_outputs("error", "no_room"), "no_room"),
        (by_its_outputs("abort", ""), ""),
        (one_then_the_other, ""),
        (lambda traces: traces.unwanted("mine:1", None), ""),
        (RequestTraces.clear, ""),
    ],
)
def test_each_span_of_a_request_ends_once(until: str, end: Callable[[RequestTraces], None], error: str) -> None:
    """In whichever phase it is: finished, refused, given back, not wanted any more, or left without a gateway."""
    told = RecordedSpans()
    traces = RequestTraces(told)
    trace = begun(traces)
    trace.call("allocate", 5)
    if until != "queue":
        trace.admitted(2)
        assert trace.prefilling
    if until == "decode":
        trace.first_token()
    end(traces)

    assert {one.name: one.ends for one in told.spans} == dict.fromkeys((one.name for one in told.spans), 1)
    assert len(told.named("decode")) == (2 if until == "decode" else 0)
    assert [one.error for one in told.named("generate")] == [error]
    assert not traces.open


def test_spans_say_which_phase_took_what() -> None:
    """Phases are within the engine's span, which is within the caller's; steps are events of the prefill, and each
    continuation has its own tokens."""
    told = RecordedSpans()
    traces = RequestTraces(told)
    trace = begun(traces)
    assert trace.call("allocate", 5) == told.named("kvstore allocate")[0].context
    trace.answered("allocate", 5, CLAIMED)
    trace.admitted(2)
    traces.computes(17, [(trace, 3), (None, 1)])
    trace.first_token()
    traces.computes(18, [(trace, 1)])
    for index in (0, 0, 1):
        traces.said(Output("mine:1", index, pack_u32([4])))
    by_its_outputs("stop", "")(traces)

    (generate,), (prefill,) = told.named("generate"), told.named("prefill")
    assert (generate.parent, generate.attributes["quire.request_id"]) == ("caller", "mine")
    assert {one.parent for one in told.spans if one is not generate} == {generate.context}
    assert prefill.events == [("step", {"quire.step": 17, "quire.tokens": 3, "quire.batch_tokens": 4})]
    assert told.named("kvstore allocate")[0].attributes == {"quire.code": "CLAIMED"}
    assert [one.attributes["quire.tokens"] for one in told.named("decode")] == [3, 2]
    assert generate.attributes["quire.output_tokens"] == 5


def test_a_request_that_asks_the_kvstore_for_ever_is_told_of_so_often() -> None:
    """Behind that its messages carry no context."""
    told = RecordedSpans()
    trace = begun(RequestTraces(told))
    contexts = [trace.call("allocate", number) for number in range(MOST_CALLS + 3)]

    assert contexts[MOST_CALLS:] == [""] * 3
    assert len(told.named("kvstore allocate")) == MOST_CALLS


def test_nothing_is_told_of_what_is_not_traced() -> None:
    """Without a tracer, without a context, and where the caller does not record."""
    silent = Generate("a:1", "t", pack_u32([1]), Sampling(8), trace="x")
    plain = Generate("b:1", "t", pack_u32([1]), Sampling(8))
    traces = RequestTraces(RecordedSpans())

    assert RequestTraces().begin(Generate("a:1", "t", b"", Sampling(8), trace="caller")) is None
    assert (traces.begin(silent), traces.begin(plain), traces.open) == (None, None, {})
