"""Declared parser: answers of models whose tokenizer declares more than a ``ToolFormat`` can say.

transformers' own parser takes the answer apart as the tokenizer's ``response_template`` says; here its regions become
the same events that ``AnswerParser`` gives. A call comes out when it has ended, because what a region says is known
then. There is no grammar for these models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .parser.event_sink import EventSink, Kind
from .parser.events import AnswerEvent
from .parser.marks import Marks
from .parser.parameter_types import Tool

_KINDS: dict[str, Kind] = {
    "content": "content",
    "thinking": "reasoning",
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
}
_CALLS = "tool_calls"


class DeclaredParser:
    """Parses one answer, as ``AnswerParser`` does.

    Args:
        template: the tokenizer's ``response_template``.
        tools: of the request.
        prompt: what stands before the answer.

    Raises:
        ValueError: the template is not valid.
    """

    def __init__(self, template: Any, tools: Iterable[Tool] | None = None, prompt: str = "") -> None:
        from transformers.utils.chat_parsing import ResponseParser  # slow to import: only who needs it pays

        self._sink = EventSink(Marks((), ()))
        self._body = ""  # of a call that has not ended
        self._failed = False
        self._parser = ResponseParser(template, prompt, tools=[dict(tool) for tool in tools or ()])

    def feed(self, text: str) -> list[AnswerEvent]:
        """Take a piece of text."""
        for place, character in enumerate(text):
            if self._failed:
                self._sink.text("content", text[place:])
                break
            self._try(lambda one=character: self._parser.feed(one))
        return self._sink.take()

    def feed_special(self, token: str) -> list[AnswerEvent]:
        """Take a special token by its spelling."""
        return self.feed(token)

    def marked(self, text: str) -> str:
        """A piece of text for ``feed_marked``."""
        return text

    def mark(self, token: str) -> str:
        """A special token for ``feed_marked``: these templates do not tell it from what spells it."""
        return token

    def feed_marked(self, text: str) -> list[AnswerEvent]:
        """Take a piece of what ``marked`` and ``mark`` have made."""
        return self.feed(text)

    def finish(self) -> list[AnswerEvent]:
        """The answer has ended."""
        if not self._failed:
            self._try(lambda: self._parser.finalize()[1])
        self._sink.text("content", self._body)
        self._sink.finish()
        return self._sink.take()

    def _try(self, step: Any) -> None:
        """Take the regions of a step. A region that is not what the template says is text, and so is all after it."""
        try:
            for event in step():
                self._event(event)
        except (ValueError, KeyError, TypeError, RecursionError):
            self._failed = True
            self._sink.text("content", self._body)
            self._body = ""

    def _event(self, event: Mapping[str, Any]) -> None:
        kind = _KINDS.get(event["field"])
        if event["type"] != "region_chunk":
            self._sink.apart()
            if event["type"] == "region_close" and event["field"] == _CALLS:
                self._body = ""
                self._calls(event["value"])
        elif kind:
            self._sink.text(kind, event["text"])
        elif event["field"] == _CALLS:
            self._body += event["text"]

    def _calls(self, value: Any) -> None:
        for call in value if isinstance(value, list) else [value]:
            function = call["function"]
            self._sink.begin(function["name"])
            arguments = function.get("arguments") or {}
            self._sink.arguments(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
            self._sink.end(True)
