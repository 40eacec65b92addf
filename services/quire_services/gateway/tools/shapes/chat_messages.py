"""Chat messages: events of an answer as the objects of ``/v1/chat/completions``."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from quire_services.gateway.tools.parser.events import (
    AnswerEvent,
    ArgumentsDelta,
    ContentDelta,
    ReasoningDelta,
    ToolCallBegin,
    ToolCallEnd,
    joined,
)

CALLED = "tool_calls"


def new_call_id() -> str:
    """An id for a call of a model that writes none."""
    return f"call_{uuid.uuid4().hex[:24]}"


class ChatMessages:
    """Messages and deltas of one choice.

    Args:
        new_id: ids for calls.
        named: the request has named the tool to call, so that a call is no reason to end.

    Attributes:
        called: calls that have begun.
    """

    def __init__(self, new_id: Callable[[], str] = new_call_id, *, reasoning: bool = True, named: bool = False) -> None:
        self._new_id, self._reasoning, self._named = new_id, reasoning, named
        self.called = 0

    def deltas(self, events: Sequence[AnswerEvent]) -> list[dict[str, Any]]:
        """The ``delta`` of each streamed object that these events become, in order."""
        found = [self._delta(event) for event in (joined(events) if len(events) > 1 else events)]
        return [delta for delta in found if delta]

    def message(self, events: Sequence[AnswerEvent]) -> dict[str, Any]:
        """The ``message`` of a whole answer."""
        out: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        calls: list[dict[str, Any]] = []
        for delta in self.deltas(events):
            for piece in delta.pop("tool_calls", ()):
                if "id" in piece:
                    calls.append({key: piece[key] for key in ("id", "type", "function")})
                else:
                    calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
            for key, text in delta.items():
                out[key] = (out.get(key) or "") + text
        if calls:
            out["tool_calls"] = calls
        elif out["content"] is None:
            out["content"] = ""
        return out

    def finish_reason(self, finish: str | None) -> str | None:
        """Why the choice has ended, as the API says it: an answer that ends of itself with calls ends for these."""
        return CALLED if finish == "stop" and self.called and not self._named else finish

    def _delta(self, event: AnswerEvent) -> dict[str, Any]:
        match event:
            case ContentDelta():
                return {"content": event.text}
            case ReasoningDelta():
                return {"reasoning_content": event.text}
            case ToolCallBegin():
                self.called += 1
                function = {"name": event.name, "arguments": ""}
                begun = {"index": event.index, "id": event.id or self._new_id(), "type": "function"}
                return {"tool_calls": [{**begun, "function": function}]}
            case ArgumentsDelta():
                return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}
            case ToolCallEnd():
                return {}
