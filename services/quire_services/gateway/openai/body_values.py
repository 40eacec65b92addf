"""Values in request bodies: what is taken for a number, and how deep a body may be nested.

Clients in languages with one kind of number send ``8.0`` where 8 is meant; that cannot be misread and is accepted.
A boolean, or a number in quotes, where a number belongs can be misread and is refused. So is a whole number beyond 2^53
written as a float: it may have been rounded on its way.

Everything behind the parser - validation, templates, the encoding of errors and of logs - walks bodies recursively, so
a body that is nested without end is refused before any of them sees it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from quire_services.gateway.http.errors import invalid

INT64 = 2**63 - 1
MAX_EXACT_FLOAT = 2.0**53  # beyond it not every whole number is a float
MAX_DEPTH = 100
_NESTED = (dict, list)


def whole_number(value: Any) -> Any:
    """A float that is a whole number as an int; anything else as it is. Raises PydanticCustomError for what is no
    whole number, and for one of too many digits to be worth reading."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_FLOAT:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("whole_number", "must be a whole number, not in quotes")
    if not -INT64 - 1 <= value <= INT64:
        raise PydanticCustomError("whole_number", "must be a whole number of 64 bits")
    return value


def real_number(value: Any) -> Any:
    """A number of any size as a float. Raises PydanticCustomError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("number", "must be a number, not in quotes")
    try:
        return float(value)
    except OverflowError:
        raise PydanticCustomError("number", "must be a number of common size") from None


Whole = Annotated[int, BeforeValidator(whole_number)]
Real = Annotated[float, BeforeValidator(real_number)]
RepetitionPenalty = Annotated[Real, Field(ge=0.01, le=100)]  # more would overflow logits


def bool_as_count(value: Any) -> Any:
    """1 where a client spells "one" as ``true``, None for ``false``: as others read ``logprobs`` of completions."""
    return (1 if value else None) if isinstance(value, bool) else value


def token_count(value: Any) -> Any:
    """A number of tokens to generate: -1 is how some clients spell "no limit"."""
    value = whole_number(value)
    if value != -1 and value < 1:
        raise PydanticCustomError("tokens", "must be at least 1, or -1 for no limit")
    return value


def token_count_or_none(value: Any) -> Any:
    """The same, or 0: only the prompt is wanted."""
    return 0 if whole_number(value) == 0 else token_count(value)


Tokens = Annotated[int, BeforeValidator(token_count), Field(ge=-1)]
TokensOrNone = Annotated[int, BeforeValidator(token_count_or_none), Field(ge=-1)]


def refuse_depth(body: dict[str, Any]) -> None:
    """Raise ApiError 400 for the first field that is nested deeper than ``MAX_DEPTH``."""
    for name, value in body.items():
        if name != "prompt" and too_deep(value):  # a prompt's forms are flat: ``completions`` looks at each id
            raise invalid(f"{name!r} is nested deeper than {MAX_DEPTH} levels", name)


def too_deep(value: Any) -> bool:
    """Whether lists and objects are nested in each other deeper than ``MAX_DEPTH``; looked at level by level."""
    level = [value] if isinstance(value, _NESTED) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return False
        inner = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for children in inner for child in children if isinstance(child, _NESTED)]
    return bool(level)


class ShallowBody(BaseModel):
    """A body of any API; one that is nested without end is refused before its fields are looked at."""

    @model_validator(mode="before")
    @classmethod
    def _shallow(cls, body: Any) -> Any:
        if isinstance(body, dict):
            refuse_depth(body)
        return body
