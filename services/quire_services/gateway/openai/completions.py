"""Plain completions: the four forms of a prompt to tokens, and choices to the objects of the completions API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from quire_engine.checkpoint.token_bytes import TokenBytes
from quire_proto.gateway_link import TokenLogprob
from quire_services.gateway.http.errors import invalid
from quire_services.gateway.templates.chat_template import PromptEncoder
from quire_services.gateway.text.choices import Choice, Delta

from .bodies import CompletionBody
from .logits.prompt_scores import echoes_scores, prompt_logprobs
from .logprob_shapes import characters, completion_logprobs

MAX_CHOICES = 1024
_FORMS = "'prompt' must be a string, a list of strings, a list of token ids or a list of lists of token ids"
U32 = 2**32


def prompts(value: Any) -> list[str | list[int]]:
    """The prompts of a request, each as text or as token ids. Raises ApiError 400."""
    if isinstance(value, str):
        found: list[Any] = [value]
    elif isinstance(value, list) and value and _is_id(value[0]):
        found = [value]
    elif isinstance(value, list):
        found = value
    else:
        raise invalid(_FORMS, "prompt")
    kind = str if found and isinstance(found[0], str) else list
    for prompt in found:
        if not isinstance(prompt, kind) or (kind is list and not all(map(_is_id, prompt))):
            raise invalid(_FORMS, "prompt")
    if not found or not all(found):
        raise invalid("the prompt is empty", "prompt")
    return found


def prompt_tokens(found: list[str | list[int]], encoder: PromptEncoder, special: bool) -> list[list[int]]:
    """Token ids of each prompt, with the ``special`` ones that the tokenizer adds to a text."""
    return [encoder.encode(prompt, special) if isinstance(prompt, str) else prompt for prompt in found]


def check_completion(body: CompletionBody) -> None:
    """Raise ApiError 400 for combinations that are not served."""
    if body.max_tokens == 0 and not body.echo and body.prompt_logprobs is None:
        raise invalid("'max_tokens': 0 asks for nothing without 'echo': true or 'prompt_logprobs'", "max_tokens")


class CompletionShape:
    """Answers of ``/v1/completions``.

    Args:
        body: the request.
        names: bytes of tokens, for log-probabilities.
        echoes: text to put before the choices of each prompt; empty without ``echo``.
        prompts: tokens of each prompt.
        scores: log-probabilities of the tokens of a prompt but the first, when its first output is there.
    """

    prefix = "cmpl-"
    whole = "text_completion"
    piece = "text_completion"

    def __init__(
        self,
        body: CompletionBody,
        names: TokenBytes,
        echoes: list[str],
        prompts: Sequence[Sequence[int]],
        scores: Callable[[int], Sequence[TokenLogprob]],
    ) -> None:
        self._logprobs = body.logprobs
        self._as_ids = bool(body.return_tokens_as_token_ids)
        self.with_ids = bool(body.return_token_ids)
        self._names = names
        self._echoes = echoes
        self._prompts, self._n = prompts, body.n or 1
        self.about_prompt: dict[str, Any] = {}
        self._announced: set[int] = set()  # choices whose prompt's tokens were sent
        self._offsets: dict[int, int] = {}
        self._scores, self._echoes_scores = scores, echoes_scores(body)
        self._prompt_logprobs = body.prompt_logprobs

    def about_answer(self) -> dict[str, Any]:
        """Fields of the whole answer: each choice has what is known of its prompt."""
        return {}

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """The first streamed object of a choice: the prompt, if it is to be echoed."""
        if not self._echoes:
            return None
        logprobs = self._shape_prompt(choice)
        out = {"index": choice.index, "text": self._echo(choice), "logprobs": logprobs, "finish_reason": None}
        return self._ids(out, choice, [])

    def chunks(self, choice: Choice, delta: Delta) -> list[dict[str, Any]]:
        """The streamed choice objects of a delta, one if it says anything."""
        says = delta.text or delta.logprobs or delta.finish or (delta.tokens and self.with_ids)
        return [self._chunk(choice, delta)] if says else []

    def _chunk(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        out = {
            "index": choice.index,
            "text": delta.text,
            "logprobs": self._shape(choice, delta),
            "finish_reason": delta.finish,
        }
        return self._ids(out, choice, delta.tokens)

    def choice(self, choice: Choice, total: Delta) -> dict[str, Any]:
        """A whole choice object."""
        of_prompt = self._shape_prompt(choice)
        out = self._chunk(choice, total)
        if of_prompt is not None:
            out["logprobs"] = {name: rows + out["logprobs"][name] for name, rows in of_prompt.items()}
        out["text"] = self._echo(choice) + total.text
        if self._prompt_logprobs is not None:
            prompt = choice.index // self._n
            found = self._scores(prompt)
            out["prompt_logprobs"] = prompt_logprobs(self._prompts[prompt], found, self._names, self._prompt_logprobs)
        return out

    def _echo(self, choice: Choice) -> str:
        return self._echoes[choice.index // self._n] if self._echoes else ""

    def _ids(self, out: dict[str, Any], choice: Choice, tokens: list[int]) -> dict[str, Any]:
        """With the tokens, if they were asked for: the first object of a choice has those of its prompt, too."""
        if not self.with_ids:
            return out
        if choice.index not in self._announced:
            self._announced.add(choice.index)
            out["prompt_token_ids"] = list(self._prompts[choice.index // self._n])
        return out | {"token_ids": tokens}

    def _shape_prompt(self, choice: Choice) -> dict[str, Any] | None:
        """The ``logprobs`` object of the prompt, whose first token has none, if it is wanted."""
        if not self._echoes_scores or self._logprobs is None:
            return None
        prompt = choice.index // self._n
        tokens = self._prompts[prompt]
        lengths = [characters(self._names.of(token)) for token in tokens]
        self._offsets[choice.index] = sum(lengths)
        found = [TokenLogprob(0.0), *self._scores(prompt)]
        out = completion_logprobs(tokens, found, self._names, self._logprobs, 0, self._as_ids)
        out["token_logprobs"][0] = out["top_logprobs"][0] = None
        return out

    def _shape(self, choice: Choice, delta: Delta) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        offset = self._offsets.get(choice.index, 0)
        out = completion_logprobs(delta.tokens, delta.logprobs, self._names, self._logprobs, offset, self._as_ids)
        self._offsets[choice.index] = offset + sum(characters(self._names.of(token)) for token in delta.tokens)
        return out


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < U32
