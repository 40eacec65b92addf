"""Chat completions: messages to tokens, and choices to the objects of the chat API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire_engine.checkpoint.token_bytes import TokenBytes
from quire_services.gateway.http.errors import invalid
from quire_services.gateway.templates.chat_template import PromptEncoder, template_message
from quire_services.gateway.text.choices import Choice, Delta

from .bodies import ChatBody, Message
from .chat_tools import check_tools, tools_of
from .logprob_shapes import chat_logprobs


def chat_tokens(body: ChatBody, encoder: PromptEncoder, tenant: str) -> list[int]:
    """The prompt of a tenant's chat request. Raises ApiError 400."""
    messages = [template_message(_plain(message), f"messages[{place}]") for place, message in enumerate(body.messages)]
    # What is kept of encoded texts would tell one salt by its time what another has sent.
    keeper = None if body.cache_salt else tenant
    return encoder.encode_chat(messages, tools_of(body), _options(body), keeper, bool(body.add_special_tokens))


def _options(body: ChatBody) -> dict[str, Any]:
    """Variables of the template: those that are parameters of their own, and any others."""
    own = {"documents": body.documents, "reasoning_effort": body.reasoning_effort}
    return {name: value for name, value in own.items() if value} | (body.chat_template_kwargs or {})


def _plain(message: Message) -> dict[str, Any]:
    """A message as its client sent it, a refusal in place of the content that is not there."""
    given = message.model_dump(exclude_unset=True)
    if message.content is None and isinstance(given.get("refusal"), str):
        given["content"] = given["refusal"]
    return given


def check_chat(body: ChatBody) -> None:
    """Raise ApiError 400 for combinations that are not served."""
    check_tools(body)
    if body.top_logprobs and not body.logprobs:
        raise invalid("'top_logprobs' needs 'logprobs': true", "top_logprobs")


class ChatShape:
    """Answers of ``/v1/chat/completions``.

    Args:
        body: the request.
        names: bytes of tokens, for log-probabilities.
        prompt, text: what the model is given, as tokens and as text.
    """

    prefix = "chatcmpl-"
    whole = "chat.completion"
    piece = "chat.completion.chunk"

    def __init__(self, body: ChatBody, names: TokenBytes, prompt: Sequence[int], text: str) -> None:
        self._logprobs = bool(body.logprobs)
        self._top = body.top_logprobs or 0
        self._as_ids = bool(body.return_tokens_as_token_ids)
        self.with_ids = bool(body.return_token_ids)
        self._names = names
        self.about_prompt: dict[str, Any] = {"prompt_token_ids": list(prompt)} if self.with_ids else {}
        if body.return_prompt_text:
            self.about_prompt["prompt_text"] = text

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
        return chat_logprobs(delta.tokens, delta.logprobs, self._names, self._top, self._as_ids)

    def _ids(self, out: dict[str, Any], delta: Delta) -> dict[str, Any]:
        return out | {"token_ids": delta.tokens} if self.with_ids else out
