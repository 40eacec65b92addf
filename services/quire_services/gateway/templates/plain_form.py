"""Plain form: how a chat template takes messages without tools, found out by rendering a question before the first one.

Most take a message's content as text; some, made for models that also see, walk over its parts and find none in a text,
and so the model would read an empty question or system message. Most take null where there are no tools, some count on
a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .tool_turns import RenderChat, TemplateMessage

_SYSTEM, _WORD = "qzxsystem", "qzxquestion"
_QUESTION = {"role": "user", "content": _WORD}
_CHATS = ([{"role": "system", "content": _SYSTEM}, _QUESTION], [_QUESTION])
_NONES: tuple[list[Any] | None, ...] = (None, [])


@dataclass(frozen=True, slots=True)
class PlainForm:
    """How messages are written.

    Attributes:
        none: what stands for no tools: null, or an empty list.
        parts: content is a list of parts, not a text.
    """

    none: list[Any] | None = None
    parts: bool = False

    def written(self, messages: list[TemplateMessage]) -> list[TemplateMessage]:
        """The same conversation in this form."""
        if not self.parts:
            return messages
        return [
            {**message, "content": [{"type": "text", "text": text}]}
            if isinstance(text := message.get("content"), str)
            else message
            for message in messages
        ]


def plain_form(render: RenderChat, errors: tuple[type[Exception], ...]) -> tuple[PlainForm, tuple[str, ...]]:
    """The form in which a template writes a system message and a question, or the question alone, and what an
    operator of the model should know of it; ``errors``: what the template may raise."""
    refusal: Exception | None = None
    silent = False
    for chat in _CHATS:
        for form in (PlainForm(none, parts) for parts in (False, True) for none in _NONES):
            try:
                text = render(form.written(chat), form.none)
            except errors as error:
                refusal = refusal or error
                continue
            if all(message["content"] in text for message in chat):
                return form, ()
            silent = True
    if silent:
        return PlainForm(), ("the chat template leaves out what a user says",)
    return PlainForm(), (f"the chat template refuses a plain question: {refusal}",)
