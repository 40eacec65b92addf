"""JSON bodies: bytes to a model of the API, and every complaint in the OpenAI shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from quire_services.gateway.http.errors import ApiError, invalid

_TAGS = {"str", "int", "float", "bool", "dict", "list"}
_Model = TypeVar("_Model", bound=BaseModel)


def parse_json(raw: bytes | bytearray) -> Any:
    """The value that a body says. Raises ApiError 400."""
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        raise invalid(f"the body is not valid JSON: {error.msg}") from None
    except ValueError:  # not UTF-8, or a number of thousands of digits
        raise invalid("the body is not valid JSON") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None


def validated(kind: type[_Model], value: Any) -> _Model:
    """A value as a model of the API; what is wrong is named. Raises ApiError 400."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_context=False, include_input=False)) from None


def validation_error(errors: Sequence[Any], skip: int = 0) -> ApiError:
    """What pydantic says, by the name of the field: of a union's branches the one that came furthest. ``skip`` so many
    steps of each place."""
    first = max(errors, key=lambda found: len(found["loc"]))
    param = _param(first["loc"][skip:])
    return invalid(f"{param or 'body'}: {first['msg']}", param)


def _param(place: Sequence[int | str]) -> str | None:
    """A place in the body as clients write it: ``messages[0].content``; the branch names of unions are left out."""
    out = ""
    for step in place:
        if isinstance(step, int):
            out += f"[{step}]"
        elif step not in _TAGS and "[" not in step:
            out += f".{step}" if out else step
    return out or None
