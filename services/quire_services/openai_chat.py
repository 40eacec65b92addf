"""Chat completions: messages to tokens, and choices to the objects of the chat API."""

from __future__ import annotations

from typing import Any

from .chat_template import PromptEncoder, template_message
from .choices import Choice, Delta
from .errors_http import invalid, unsupported
from .logprob_shapes import chat_logprobs
from .openai_types import ChatBody
from .token_bytes import TokenBytes


def chat_tokens(body: ChatBody, encoder: PromptEncoder, tenant: str) -> list[int]:
    """The prompt of a tenant's chat request. Raises ApiError 400."""
    messages = [
        template_message(message.model_dump(exclude_unset=True), f"messages[{place}]")
        for place, message in enumerate(body.messages)
    ]
    tools = None if body.tool_choice == "none" else body.tools or None
    # What is kept of encoded texts would tell one salt by its time what another has sent.
    keeper = None if body.cache_salt else tenant
    return encoder.encode_chat(messages, tools, body.chat_template_kwargs, keeper)


def check_chat(body: ChatBody) -> None:
    """Raise ApiError 400 for combinations that are not served."""
    if body.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice")
    if body.top_logprobs and not body.logprobs:
        raise invalid("'top_logprobs' needs 'logprobs': true", "top_logprobs")


class ChatShape:
    """Answers of ``/v1/chat/completions``.

    Args:
        body: the request.
        names: bytes of tokens, for log-probabilities.
    """

    prefix = "chatcmpl-"
    whole = "chat.completion"
    piece = "chat.completion.chunk"

    def __init__(self, body: ChatBody, names: TokenBytes) -> None:
        self._logprobs = bool(body.logprobs)
        self._top = body.top_logprobs or 0
        self.with_ids = bool(body.return_token_ids)
        self._names = names

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """The first streamed object of a choice: it carries the role."""
        return {
            "index": choice.index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }

    def chunk(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        """A streamed choice object."""
        out: dict[str, Any] = {
            "index": choice.index,
            "delta": {"content": delta.text} if delta.text else {},
            "logprobs": self._shape(delta),
            "finish_reason": delta.finish,
        }
        return self._ids(out, delta)

    def choice(self, choice: Choice, total: Delta) -> dict[str, Any]:
        """A whole choice object."""
        out = {
            "index": choice.index,
            "message": {"role": "assistant", "content": total.text, "refusal": None},
            "logprobs": self._shape(total),
            "finish_reason": total.finish,
        }
        return self._ids(out, total)

    def _shape(self, delta: Delta) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return chat_logprobs(delta.tokens, delta.logprobs, self._names, self._top)

    def _ids(self, out: dict[str, Any], delta: Delta) -> dict[str, Any]:
        return out | {"token_ids": delta.tokens} if self.with_ids else out
