"""Response request: a request for a response with the conversation that it goes on, said as a chat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from quire_services.gateway.http.errors import invalid
from quire_services.gateway.openai.bodies import ChatBody, Message
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults

from .conversation.input_items import Item, full_item, referred_id
from .conversation.item_messages import ItemMessages
from .conversation.truncation import kept_places
from .response_body import ResponseBody
from .response_chat import response_chat
from .response_draft import ResponseDraft, draft_of

# Items as JSON, one a line: those of a response and all before it ("": none), then the items that have these ids.
Lookup = Callable[[str, list[str]], bytes]


@dataclass(slots=True)
class ResponseRequest:
    """A request.

    Attributes:
        chat: the same, as a chat.
        conversation: its messages and where they come from.
        draft: what is needed when it is answered.
    """

    chat: ChatBody
    conversation: ItemMessages
    draft: ResponseDraft

    def truncate(self, fits: Callable[[list[Message]], bool]) -> None:
        """Leave out the oldest turns of a conversation that does not fit."""
        kept = kept_places(self.chat.messages, fits)
        self.chat.messages = [self.chat.messages[place] for place in kept]
        self.conversation.places = [self.conversation.places[place] for place in kept]


def response_request(body: ResponseBody, lookup: Lookup, defaults: SamplingDefaults) -> ResponseRequest:
    """The request of a body. Raises ApiError, also what ``lookup`` raises."""
    _check(body)
    given = body.input if isinstance(body.input, list) else []
    references = [identity for item in given if (identity := referred_id(item)) is not None]
    previous = body.previous_response_id or ""
    kept: list[Item] = []
    if previous or references:
        kept = [orjson.loads(line) for line in lookup(previous, references).split(b"\n") if line]
    before, referred = kept[: len(kept) - len(references)], iter(kept[len(kept) - len(references) :])

    conversation = ItemMessages(body.instructions)
    conversation.add((item, "previous_response_id") for item in before if not _cut_call(item))
    if isinstance(body.input, str):
        new = [(full_item({"role": "user", "content": body.input}, "input"), "input")]
    else:
        places = [f"input[{place}]" for place in range(len(given))]
        new = [
            (full_item(item, where) if referred_id(item) is None else next(referred), where)
            for item, where in zip(given, places, strict=True)
        ]
    conversation.add(new)
    chat = response_chat(body, conversation)
    return ResponseRequest(chat, conversation, draft_of(body, chat, [item for item, _ in new], defaults))


def _check(body: ResponseBody) -> None:
    """Raise ApiError 400 for combinations that are not served."""
    if not body.input and body.input != "" and not body.previous_response_id:
        raise invalid("'input' is needed: a string, or a list of items", "input")
    if body.top_logprobs and not body.wants_logprobs:
        raise invalid("'top_logprobs' needs 'include': [\"message.output_text.logprobs\"]", "top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise invalid("'stream_options' needs 'stream': true", "stream_options")


def _cut_call(item: Item) -> bool:
    """Whether it is a call that the answer's end has cut: no tool can have answered it."""
    return (item["type"], item["status"]) == ("function_call", "incomplete")
