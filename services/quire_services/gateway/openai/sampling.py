"""Parameters of a request -> ``Sampling``, and refusal of those that are not served.

Defaults are the model's (``sampling_defaults``), and else OpenAI's. What is refused and what is harmless is in
``parameters``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.http.errors import invalid, other_api, too_long, unsupported

from .bodies import MAX_STOP_CHARS, MAX_STOPS, Body, ChatBody
from .body_values import INT64
from .limits import Limits
from .parameters import PARAMETERS_BY_NAME
from .sampling_defaults import SamplingDefaults

COMPLETION_TOKENS = 16  # OpenAI's default for plain completions


def refuse_unsupported(body: Body, api: str) -> None:
    """Raise ApiError 400 for the first parameter that is known, not served in this API and not neutral."""
    for name, value in (body.model_extra or {}).items():
        known = PARAMETERS_BY_NAME.get(name)
        if known is not None and not known.accepts(value, api):
            raise (
                unsupported(name, known.note)
                if known.known_to(api)
                else other_api(name, " and ".join(known.openai or known.vllm))
            )
    if body.spaces_between_special_tokens is False and body.skip_special_tokens is False:
        why = "special tokens stand as the tokenizer writes them; leave it out, or leave them out of the answer"
        raise unsupported("spaces_between_special_tokens", why)
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


def tokens_to_generate(body: Body, defaults: SamplingDefaults) -> tuple[int | None, int | None]:
    """(tokens to generate as the client says, -1 for all that there is room for, None if it does not say; what is
    generated then, None for all that there is room for)."""
    if isinstance(body, ChatBody):
        return (
            body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
            defaults.max_tokens,
        )
    return body.max_tokens, min(COMPLETION_TOKENS, defaults.max_tokens or COMPLETION_TOKENS)


def check_prompt(tokens: Sequence[int], limits: Limits, param: str) -> None:
    """Raise ApiError 400 for a prompt that is empty, out of the vocabulary, or leaves no room for an answer."""
    if not tokens:
        raise invalid("the prompt is empty", param)
    if len(tokens) >= limits.widest:
        raise too_long(len(tokens), 1, limits.max_model_len, param)
    if max(tokens) >= limits.vocab_size:
        raise invalid(f"token id {max(tokens)} is outside the vocabulary of {limits.vocab_size}", param)


def room_for_prompt(body: Body, limits: Limits, defaults: SamplingDefaults) -> int:
    """How many tokens a prompt may have if all those to generate are to have room."""
    asked, default = tokens_to_generate(body, defaults)
    return max(1, limits.max_model_len - max(1, (default if asked is None else asked) or 1))


def truncated_prompt(tokens: Sequence[int], body: Body, limits: Limits, defaults: SamplingDefaults) -> Sequence[int]:
    """What stays of a prompt that may be truncated: as many tokens as the request says, -1 for all that leave room for
    those to generate, at the side it says."""
    keep = body.truncate_prompt_tokens
    if keep == -1:
        keep = room_for_prompt(body, limits, defaults)
    if keep is None or keep >= len(tokens):
        return tokens
    return tokens[:keep] if body.truncation_side == "right" else tokens[len(tokens) - keep :]


def sampling(
    body: Body, prompt: int, logprobs: int, limits: Limits, param: str, defaults: SamplingDefaults
) -> Sampling:
    """How the tokens of one prompt's continuations are chosen. Raises ApiError 400.

    Args:
        body: the request.
        prompt: tokens of the prompt.
        logprobs: 0 for none, else the number of alternatives + 1.
        limits: what the engines can take.
        param: the field that holds the prompt.
        defaults: what stands in for other parameters that the request leaves out.
    """
    asked, default = tokens_to_generate(body, defaults)
    if asked is not None and prompt + asked > limits.widest:
        raise too_long(prompt, asked, limits.max_model_len, param)
    # A prompt beyond what any request may have is its engine's to judge: it knows what the prompt begins with.
    room = (limits.max_model_len if prompt < limits.max_model_len else limits.widest) - prompt
    if asked is None:
        asked = min(default or room, room)
    max_tokens = room if asked == -1 else asked
    generated = max(1, max_tokens)  # one is drawn in any case; where none is wanted it is not told
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise invalid(f"'min_tokens' is {min_tokens}, more than the {max_tokens} to generate", "min_tokens")
    stop_ids = body.stop_token_ids or []
    if stop_ids and max(stop_ids) >= limits.vocab_size:
        raise invalid(f"token id {max(stop_ids)} is outside the vocabulary", "stop_token_ids")
    top_p = defaults.top_p if body.top_p is None else body.top_p
    temperature = defaults.temperature if body.temperature is None else body.temperature
    return Sampling(
        max_tokens=generated,
        temperature=temperature if top_p else 0.0,  # the smallest nucleus is the most likely token alone
        top_k=defaults.top_k if body.top_k is None else max(body.top_k, 0),
        top_p=top_p or 1.0,
        min_p=defaults.min_p if body.min_p is None else body.min_p,
        seed=secrets.randbits(63) if body.seed is None else body.seed & INT64,
        stop_token_ids=pack_u32(stop_ids),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=min_tokens,
        logprobs=logprobs,
    )
