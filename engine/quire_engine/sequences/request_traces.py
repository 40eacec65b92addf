"""RequestTraces: what an engine tells of the requests that are traced, as spans.

    generate                 from its message to the end of its last continuation here
      queue                  until it has its first blocks
      prefill                until its first token; an event for each step that computes a piece of the prompt
      decode                 of each continuation, from the first token to its end
      kvstore allocate ...   what the kvstore is asked for it alone, until it has answered

A request that goes on in another engine ends here with an event and has spans of its own there. What is said to the
kvstore for all sequences of a step together is no part of any of them. A beam search says nothing before its end: its
prefill lasts as long.

Nothing here knows what stands behind a span (``quire_proto.spans``). A request that is not traced has none of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from quire_proto.gateway_link import Generate, Output, request_id
from quire_proto.messages.codes import ITEM_CODES
from quire_proto.spans import CLIENT, NO_ATTRIBUTES, Attributes, Span, Tracer

MOST_CALLS = 64  # told of one request: where there is no space, it may ask the kvstore again and again


class RequestTrace:
    """The spans of one request here.

    Attributes:
        prefilling: it has blocks and no token yet.
    """

    def __init__(self, span: Span, message: Generate) -> None:
        self.prefilling = False
        self._span = span
        self._phase: Span | None = span.child("queue")  # of all its continuations
        self._open = set(range(message.index, message.index + message.n))
        self._decodes: dict[int, Span] = {}
        self._tokens = Counter[int]()
        self._calls: dict[tuple[str, int], Span] = {}
        self._called = 0

    def admitted(self, cached: int) -> None:
        """It has its first blocks, with so many tokens of it computed."""
        self._end_phase({"quire.cached_tokens": cached})
        self._phase, self.prefilling = self._span.child("prefill"), True

    def computes(self, step: int, tokens: int, rows: int) -> None:
        """A step computes so many tokens of it, among ``rows`` of all."""
        assert self._phase is not None, "it is prefilling"
        self._phase.event("step", {"quire.step": step, "quire.tokens": tokens, "quire.batch_tokens": rows})

    def first_token(self) -> None:
        """Its first token was drawn here."""
        self._end_phase()
        for index in sorted(self._open):
            self._decodes[index] = self._span.child("decode", attributes={"quire.index": index})

    def preempted(self) -> None:
        """A sequence of it gave its blocks up, and is computed again."""
        self._span.event("preempted")

    def call(self, op: str, sequence: int) -> str:
        """The kvstore is asked something for one of its sequences; the span's context, for the message."""
        if self._called >= MOST_CALLS:
            return ""
        self._called += 1
        call = self._calls[op, sequence] = self._span.child(f"kvstore {op}", CLIENT)
        return call.context

    def answered(self, op: str, sequence: int, code: int) -> None:
        """The kvstore has answered that, with an item code."""
        if call := self._calls.pop((op, sequence), None):
            call.end({"quire.code": ITEM_CODES[code]})

    def said(self, output: Output) -> bool:
        """An output goes to the gateway; whether it was the last."""
        self._tokens[output.index] += len(output.tokens) // 4
        if output.finish == "abort":
            told = {"quire.index": output.index, "quire.computed_tokens": output.computed}
            self._span.event("given back", {**told, "quire.offered": bool(output.offer)})
        return bool(output.finish) and self.ended(output.index, output.finish, output.code)

    def ended(self, index: int, finish: str, code: str = "") -> bool:
        """A continuation ends, or leaves; whether it was the last."""
        told: Attributes = {"quire.finish": finish, "quire.tokens": self._tokens[index]}
        if decode := self._decodes.pop(index, None):
            decode.end(told, error=code)
        self._open.discard(index)
        if self._open:
            return False
        for call in self._calls.values():
            call.end(error=code or finish)
        self._end_phase(error=code)
        self._span.end({"quire.output_tokens": self._tokens.total()}, error=code)
        return True

    def aborted(self) -> None:
        """What is left of it is wanted no more."""
        for index in sorted(self._open):
            self.ended(index, "abort")

    def _end_phase(self, attributes: Attributes = NO_ATTRIBUTES, error: str = "") -> None:
        if self._phase is not None:
            self._phase.end(attributes, error)
        self._phase, self.prefilling = None, False


class RequestTraces:
    """Those of one engine. Without a tracer there are none.

    Attributes:
        open: of requests that have not ended here, by name.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self.open: dict[str, RequestTrace] = {}

    def begin(self, message: Generate) -> RequestTrace | None:
        """A request has come."""
        if self._tracer is None or not message.trace:
            return None
        told: Attributes = {
            "quire.request_id": request_id(message.request),
            "quire.prompt_tokens": len(message.tokens) // 4,
            "quire.emitted_tokens": len(message.emitted) // 4,
            "quire.cause": message.cause,
        }
        span = self._tracer.join(message.trace, "generate", told)
        if span is None:
            return None
        trace = self.open[message.request] = RequestTrace(span, message)
        return trace

    def said(self, output: Output) -> None:
        """An output goes to the gateway."""
        trace = self.open.get(output.request)
        if trace is not None and trace.said(output):
            del self.open[output.request]

    def computes(self, step: int, work: Collection[tuple[RequestTrace | None, int]]) -> None:
        """A step is launched, with so many tokens of each of these."""
        tokens = sum(count for _, count in work)
        for trace, count in work:
            if trace is not None and trace.prefilling:
                trace.computes(step, count, tokens)

    def unwanted(self, name: str, index: int | None) -> None:
        """The gateway wants a continuation no more, or all of them."""
        trace = self.open.get(name)
        if trace is None:
            return
        if index is None:
            trace.aborted()
        if index is None or trace.ended(index, "abort"):
            del self.open[name]

    def clear(self) -> None:
        """Nothing here is wanted any more."""
        for name in list(self.open):
            self.unwanted(name, None)
