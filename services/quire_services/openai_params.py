"""Parameters of a request -> ``Sampling``, and refusal of those that are not served.

Defaults are OpenAI's. A parameter that is known, is not served and has a value that would change the answer is
refused by name: an answer that silently ignores it would be wrong.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quire_proto.link import Sampling
from quire_proto.packed import pack

from .errors_http import invalid, too_long, unsupported
from .openai_types import INT64, MAX_STOP_CHARS, MAX_STOPS, Body

# Parameter -> values that change nothing. None always changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": ([],),
    "guided_grammar": (),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "include_stop_str_in_output": (False,),
    "use_beam_search": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "suffix": ("",),
    "chat_template": (),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engines can take: longest sequence in tokens, vocabulary size."""

    max_model_len: int
    vocab_size: int


def refuse_unsupported(body: Body) -> None:
    """Raise ApiError 400 for the first parameter that is known, not served and not neutral."""
    for name, value in (body.model_extra or {}).items():
        if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
            raise unsupported(name)
    if body.stream_options is not None and not body.stream:
        raise invalid("'stream_options' needs 'stream': true", "stream_options")


def stop_strings(body: Body) -> tuple[str, ...]:
    """The stop strings of a request. Raises ApiError 400."""
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stops) > MAX_STOPS:
        raise invalid(f"at most {MAX_STOPS} stop strings", "stop")
    if not all(0 < len(stop) <= MAX_STOP_CHARS for stop in stops):
        raise invalid(f"a stop string has 1 to {MAX_STOP_CHARS} characters", "stop")
    return stops


def check_prompt(tokens: Sequence[int], limits: Limits, param: str) -> None:
    """Raise ApiError 400 for a prompt that is empty, out of the vocabulary, or leaves no room for an answer."""
    if not tokens:
        raise invalid("the prompt is empty", param)
    if max(tokens) >= limits.vocab_size:
        raise invalid(f"token id {max(tokens)} is outside the vocabulary of {limits.vocab_size}", param)
    if len(tokens) >= limits.max_model_len:
        raise too_long(len(tokens), 1, limits.max_model_len, param)


def sampling(
    body: Body, prompt: int, asked: int | None, default: int | None, logprobs: int, limits: Limits, param: str
) -> Sampling:
    """How the tokens of one prompt's continuations are chosen. Raises ApiError 400.

    Args:
        body: the request.
        prompt: tokens of the prompt.
        asked: tokens to generate as the client says, None if it does not.
        default: tokens to generate if it does not; None for all that the model has room for.
        logprobs: 0 for none, else the number of alternatives + 1.
        limits: what the engines can take.
        param: the field that holds the prompt.
    """
    room = limits.max_model_len - prompt
    if asked is not None and asked > room:
        raise too_long(prompt, asked, limits.max_model_len, param)
    max_tokens = asked if asked is not None else min(default or room, room)
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise invalid(f"'min_tokens' is {min_tokens}, more than the {max_tokens} to generate", "min_tokens")
    stop_ids = body.stop_token_ids or []
    if stop_ids and max(stop_ids) >= limits.vocab_size:
        raise invalid(f"token id {max(stop_ids)} is outside the vocabulary", "stop_token_ids")
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=max(body.top_k or 0, 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        seed=secrets.randbits(63) if body.seed is None else body.seed & INT64,
        stop_token_ids=pack(stop_ids),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=min_tokens,
        logprobs=logprobs,
    )
