"""The best of several continuations: more are generated of a prompt than are answered with.

The best are those of the highest log-probability per token, as OpenAI says of ``best_of``; they come best first. So the
engine is asked for the log-probabilities whether the client wants them or not. All that was generated counts as used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quire_services.gateway.http.errors import invalid
from quire_services.gateway.openai.bodies import Body, CompletionBody
from quire_services.gateway.text.choices import Choice, Delta

Ended = tuple[Choice, Delta]


def check_best_of(body: Body) -> None:
    """Raise ApiError 400 where fewer are generated than are wanted, or where the best would have to be known early."""
    best_of = body.best_of if isinstance(body, CompletionBody) else None
    if best_of is not None and best_of < (body.n or 1):
        raise invalid(f"'best_of' is {best_of}, less than the {body.n or 1} of 'n'", "best_of")
    if body.stream and generated(body) > (body.n or 1):
        raise invalid("which are the best is known at the end only: with 'stream', 'best_of' must be 'n'", "best_of")


def generated(body: Body) -> int:
    """Continuations of each prompt that are generated, or that a search has as beams."""
    best_of = body.best_of if isinstance(body, CompletionBody) else None
    return best_of or body.n or 1


def ranked(body: Body) -> int:
    """Continuations of each prompt that an engine answers with, and of which the best are kept."""
    return (body.n or 1) if body.use_beam_search else generated(body)


def best(ended: Sequence[Ended], of: int, keep: int) -> Iterable[Ended]:
    """Of every ``of`` continuations, which are those of one prompt, the best ``keep``, numbered anew."""
    if of == keep:
        return ended
    kept = list[Ended]()
    for first in range(0, len(ended), of):
        kept += sorted(ended[first : first + of], key=lambda one: -_mean(one[1]))[:keep]
    for number, (choice, _) in enumerate(kept):
        choice.index = number
    return kept


def _mean(total: Delta) -> float:
    """Log-probability per token."""
    return sum(one.logprob for one in total.logprobs) / max(1, len(total.logprobs))
