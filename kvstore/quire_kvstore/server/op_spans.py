"""OpSpans: what the kvstore tells of the ops that are parts of traced requests.

An item that carries a ``trace`` has a span from the moment its message was taken up to its reply: where a step has more
items than this one, that is what the asking request has waited for. Without a tracer, or without a traced item, an op
costs one look at a field.
"""

from __future__ import annotations

from typing import Any

from quire_proto.messages import Step
from quire_proto.messages.codes import ITEM_CODES
from quire_proto.spans import Span, Tracer

TRACED_OPS = {"allocate", "offer", "adopt"}
_SECTIONS = ("allocates", "offers", "adopts")


class OpSpans:
    """Spans of the items of one message: of a step's section and place in it, or of the op itself."""

    def __init__(self, spans: list[tuple[str, int, Span]]) -> None:
        self._spans = spans

    @classmethod
    def begin(cls, tracer: Tracer, op: str, body: Any) -> OpSpans | None:
        """The spans of a message that is about to be executed; None if no request in it is traced."""
        if isinstance(body, Step):
            items = [
                (section, place, item.trace)
                for section in _SECTIONS
                for place, item in enumerate(getattr(body, section))
                if item.trace
            ]
        else:
            items = [("", 0, body.trace)] if op in TRACED_OPS and body.trace else []
        spans = [
            (section, place, span)
            for section, place, trace in items
            if (span := tracer.join(trace, section.removesuffix("s") or op, {"quire.op": op})) is not None
        ]
        return cls(spans) if spans else None

    def end(self, reply: Any) -> None:
        """The message is answered with this."""
        for section, place, span in self._spans:
            answer = getattr(reply, section)[place] if section else reply
            span.end({"quire.code": ITEM_CODES[answer.code]})

    def fail(self, code: str) -> None:
        """It is answered with an error."""
        for _, _, span in self._spans:
            span.end(error=code)
