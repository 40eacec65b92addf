"""Item messages: a conversation's items as the messages of a chat.

What an assistant says in a row - reasoning, text, calls - is one message, as chat templates know it and as one answer
of the model was. So a conversation that goes on begins with the tokens that it had.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quire_services.gateway.http.errors import invalid
from quire_services.gateway.http.own_words import MessagePlace

from .input_items import Item, item_text


class ItemMessages:
    """The messages of one conversation.

    Attributes:
        messages: as a chat has them.
        places: where in the request each message comes from.
    """

    def __init__(self, instructions: str | None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.places: list[MessagePlace] = []
        self._turn: dict[str, Any] | None = None  # the assistant's, if its message may go on
        self._called: set[str] = set()
        if instructions is not None:
            self._begin({"role": "system", "content": instructions}, "instructions")

    def add(self, items: Iterable[tuple[Item, str]]) -> None:
        """Add items and their places. Raises ApiError 400 for an output of a call that was not made."""
        for item, where in items:
            match item["type"]:
                case "message" if item["role"] != "assistant":
                    self._begin({"role": item["role"], "content": item_text(item)}, where)
                case "message":
                    self._say(item_text(item), where)
                case "reasoning":
                    self._reason(item_text(item), where)
                case "function_call":
                    self._call(item, where)
                case "function_call_output":
                    self._answer(item, where)

    def _begin(self, message: dict[str, Any], where: str) -> dict[str, Any]:
        self._turn = None
        self.messages.append(message)
        self.places.append(MessagePlace(where))
        return message

    def _assistant(self, where: str) -> dict[str, Any]:
        """The assistant's message that goes on, or a new one."""
        if self._turn is None:
            self._turn = self._begin({"role": "assistant", "content": ""}, where)
        return self._turn

    def _say(self, text: str, where: str) -> None:
        turn = self._assistant(where)
        if turn["content"] and not turn.get("tool_calls"):  # two messages of a client's own
            self._turn = None
            turn = self._assistant(where)
        turn["content"] += "\n" + text if turn["content"] else text

    def _reason(self, text: str, where: str) -> None:
        turn = self._assistant(where)
        if turn["content"] or turn.get("tool_calls"):  # the next answer begins
            self._turn = None
            turn = self._assistant(where)
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def _call(self, item: Item, where: str) -> None:
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        self._assistant(where).setdefault("tool_calls", []).append(call)
        self.places[-1].calls.append(where)
        self._called.add(item["call_id"])

    def _answer(self, item: Item, where: str) -> None:
        if item["call_id"] not in self._called:
            reason = f"{where}: there is no function_call with the call_id {item['call_id'][:80]!r} before it"
            raise invalid(reason, f"{where}.call_id")
        self._begin({"role": "tool", "tool_call_id": item["call_id"], "content": item_text(item)}, where)
