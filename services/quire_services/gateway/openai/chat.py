"""Chat completions: messages to tokens, and choices to the objects of the chat API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quire_engine.checkpoint.token_bytes import TokenBytes
from quire_proto.gateway_link import TokenLogprob
from quire_services.gateway.http.errors import invalid
from quire_services.gateway.templates.chat_template import PromptEncoder, template_message
from quire_services.gateway.templates.content_parts import text_of
from quire_services.gateway.templates.model_templates import (
    EFFORT_VARIABLE,
    NO_EFFORT,
    THINKING_VARIABLES,
    Ending,
)
from quire_services.gateway.text.choices import Choice, Delta
from quire_services.gateway.tools.parser.events import AnswerEvent, ReasoningDelta
from quire_services.gateway.tools.shapes.chat_messages import ChatMessages

from .bodies import ChatBody, Message
from .chat_tools import check_tools, choice_of, shown_tools
from .logits.prompt_scores import prompt_logprobs
from .logprob_shapes import chat_logprobs


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What a chat's prompt is made of, as templates take it: messages, tools, variables."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    options: dict[str, Any]


def chat_prompt(body: ChatBody, encoder: PromptEncoder) -> ChatPrompt:
    """What the prompt of a chat request is made of. Raises ApiError 400."""
    messages = [template_message(_plain(message), f"messages[{place}]") for place, message in enumerate(body.messages)]
    return ChatPrompt(messages, shown_tools(body, encoder.shows_tools), _options(body))


def chat_tokens(body: ChatBody, encoder: PromptEncoder, tenant: str | None) -> list[int]:
    """The prompt of a tenant's chat request; of None, nothing is kept. Raises ApiError 400."""
    # What is kept of encoded texts would tell one salt by its time what another has sent.
    keeper = None if body.cache_salt else tenant
    made = chat_prompt(body, encoder)
    extra = bool(body.add_special_tokens)
    return encoder.encode_chat(made.messages, made.tools, made.options, keeper, extra, _ending(body))


def chat_echo(body: ChatBody) -> str:
    """What an answer with ``echo`` begins with: the last message, if it is the assistant's."""
    last = body.messages[-1]
    return text_of(last.content, f"messages[{len(body.messages) - 1}]") if last.role == "assistant" else ""


def _ending(body: ChatBody) -> Ending:
    if body.continue_final_message:
        return Ending.WITHIN
    return Ending.MESSAGE if body.add_generation_prompt is False else Ending.ANSWER


def _options(body: ChatBody) -> dict[str, Any]:
    """Variables of the template: those that are parameters of their own, and any others."""
    own = {"documents": body.documents, "reasoning_effort": body.reasoning_effort}
    return {name: value for name, value in own.items() if value} | (body.chat_template_kwargs or {})


def may_reason(body: ChatBody) -> bool:
    """Whether the request lets the model reason: by a variable of templates, whether or not the model's reads it, or by
    its effort."""
    options = _options(body)
    said = [options[name] for name in THINKING_VARIABLES if name in options]
    return all(said) if said else options.get(EFFORT_VARIABLE) != NO_EFFORT


def _plain(message: Message) -> dict[str, Any]:
    """A message as its client sent it, a refusal in place of the content that is not there."""
    given = message.model_dump(exclude_unset=True)
    if message.content is None and isinstance(given.get("refusal"), str):
        given["content"] = given["refusal"]
    return given


def check_chat(body: ChatBody, encoder: PromptEncoder) -> None:
    """Raise ApiError 400 for combinations that are not served."""
    check_tools(body, encoder.answers.calls or not encoder.shows_tools)  # a template without tools refuses them itself
    if body.continue_final_message and body.add_generation_prompt:
        reason = "'continue_final_message' and 'add_generation_prompt' cannot both be true: the answer goes on with the"
        raise invalid(f"{reason} last message, or is a new one", "continue_final_message")
    if body.top_logprobs and not body.logprobs:
        raise invalid("'top_logprobs' needs 'logprobs': true", "top_logprobs")


class ChatShape:
    """Answers of ``/v1/chat/completions``.

    Args:
        body: the request.
        names: bytes of tokens, for log-probabilities.
        prompt, text: what the model is given, as tokens and as text.
        scores: log-probabilities of its tokens but the first, when the first output is there.
        echo: what each answer begins with.
    """

    prefix = "chatcmpl-"
    whole = "chat.completion"
    piece = "chat.completion.chunk"

    def __init__(
        self,
        body: ChatBody,
        names: TokenBytes,
        prompt: Sequence[int],
        text: str,
        scores: Callable[[], Sequence[TokenLogprob]],
        echo: str = "",
    ) -> None:
        self._logprobs = bool(body.logprobs)
        self._top = body.top_logprobs or 0
        self._as_ids = bool(body.return_tokens_as_token_ids)
        self.with_ids = bool(body.return_token_ids)
        self._names = names
        self._named = choice_of(body).one
        self._messages: dict[int, ChatMessages] = defaultdict(self._message)  # of each choice that is streamed
        self.about_prompt: dict[str, Any] = {"prompt_token_ids": list(prompt)} if self.with_ids else {}
        if body.return_prompt_text:
            self.about_prompt["prompt_text"] = text
        self._echo, self._with_reasoning = echo, body.include_reasoning is not False
        self._prompt, self._scores, self._prompt_logprobs = prompt, scores, body.prompt_logprobs

    def about_answer(self) -> dict[str, Any]:
        """Fields of the whole answer that are known when it is."""
        if self._prompt_logprobs is None:
            return {}
        found = prompt_logprobs(self._prompt, self._scores(), self._names, self._prompt_logprobs)
        return {"prompt_logprobs": found}

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """The first streamed object of a choice: it carries the role."""
        return {
            "index": choice.index,
            "delta": {"role": "assistant", "content": self._echo},
            "logprobs": None,
            "finish_reason": None,
        }

    def chunks(self, choice: Choice, delta: Delta) -> list[dict[str, Any]]:
        """The streamed choice objects of a delta: log-probabilities and ids with the first, the end with the last."""
        messages = self._messages[choice.index]
        found = messages.deltas(self._told(delta))
        if not found and not (delta.logprobs or delta.finish or (delta.tokens and self.with_ids)):
            return []
        out = [self._chunk(choice, found[0] if found else {}, delta)]
        out += [self._chunk(choice, one, Delta()) for one in found[1:]]
        out[-1]["finish_reason"] = messages.finish_reason(delta.finish)
        return out

    def _told(self, delta: Delta) -> list[AnswerEvent]:
        """The events of a delta that the client wants."""
        return [event for event in delta.events if self._with_reasoning or not isinstance(event, ReasoningDelta)]

    def _chunk(self, choice: Choice, said: dict[str, Any], delta: Delta) -> dict[str, Any]:
        out = {"index": choice.index, "delta": said, "logprobs": self._shape(delta), "finish_reason": None}
        return self._ids(out, delta)

    def choice(self, choice: Choice, total: Delta) -> dict[str, Any]:
        """A whole choice object."""
        messages = self._message()
        message = messages.message(self._told(total))
        if self._echo:
            message["content"] = self._echo + (message["content"] or "")
        out = {
            "index": choice.index,
            "message": message,
            "logprobs": self._shape(total),
            "finish_reason": messages.finish_reason(total.finish),
        }
        return self._ids(out, total)

    def _message(self) -> ChatMessages:
        return ChatMessages(named=self._named)

    def _shape(self, delta: Delta) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return chat_logprobs(delta.tokens, delta.logprobs, self._names, self._top, self._as_ids)

    def _ids(self, out: dict[str, Any], delta: Delta) -> dict[str, Any]:
        return out | {"token_ids": delta.tokens} if self.with_ids else out
