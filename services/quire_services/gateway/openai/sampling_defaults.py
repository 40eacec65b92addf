"""Sampling defaults: what ``generation_config.json`` says for requests that do not.

The makers of a model put the temperature it was tuned for there, and clients leave it to the server. As in vLLM, the
values of the file stand in for what a request leaves out, whatever ``do_sample`` says; a request's own values win. What
the file asks for and is not served here (``typical_p``, say) is logged at the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from quire_services.config.input_files import read_bytes

from .body_values import Real, RepetitionPenalty, Whole

AUTO, NONE = "auto", "none"
GENERATION_CONFIG = "generation_config.json"
MAX_GENERATION_CONFIG_BYTES = 1 << 20
# What would change answers, and the values that do not.
_NOT_SERVED = {"no_repeat_ngram_size": (None, 0), "typical_p": (None, 1)}


class DefaultsError(Exception):
    """The file of the defaults cannot be used; one line says why."""


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What stands in for parameters that a request leaves out.

    Attributes:
        max_tokens: tokens to generate; None: as many as there is room for.
        end_ids: tokens that end an answer.
        given: the values that the file gives, as logged at the start.
        not_served: parameters that the file gives and that have no effect here.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None
    end_ids: frozenset[int] = frozenset()
    given: tuple[tuple[str, float], ...] = ()
    not_served: tuple[str, ...] = ()


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [] if value is None else [value]


class _File(BaseModel):
    """What of the file is read."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    temperature: Annotated[Real, Field(ge=0)] | None = None
    top_k: Annotated[Whole, Field(ge=-1)] | None = None
    top_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    min_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    max_new_tokens: Annotated[Whole, Field(ge=1)] | None = None
    eos_token_id: Annotated[list[Annotated[Whole, Field(ge=0)]], BeforeValidator(_listed)] = []


def load_sampling_defaults(source: str, model: Path) -> SamplingDefaults:
    """The defaults from ``auto`` (the model's directory, which need not have the file), ``none``, or a directory.
    Raises DefaultsError."""
    if source == NONE:
        return SamplingDefaults()
    file = (model if source == AUTO else Path(source)) / GENERATION_CONFIG
    try:
        found = _File.model_validate_json(read_bytes(file, MAX_GENERATION_CONFIG_BYTES))
    except FileNotFoundError:
        if source == AUTO:
            return SamplingDefaults()
        raise DefaultsError(f"--generation-config {source!r}: there is no {file} (or set auto, or none)") from None
    except OSError as error:
        raise DefaultsError(f"cannot read {file}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        hint = "fix it, or set --generation-config none"
        raise DefaultsError(f"{file}: {place + ': ' if place else ''}{first['msg']} ({hint})") from None
    return _defaults(found)


def _defaults(found: _File) -> SamplingDefaults:
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
    given = {name: value for name in names if (value := getattr(found, name)) is not None}
    values = {"max_tokens" if name == "max_new_tokens" else name: value for name, value in given.items()}
    if "top_k" in values:
        values["top_k"] = max(values["top_k"], 0)
    more = found.model_extra or {}
    not_served = tuple(name for name, neutral in _NOT_SERVED.items() if more.get(name) not in neutral)
    return SamplingDefaults(
        **values, end_ids=frozenset(found.eos_token_id), given=tuple(given.items()), not_served=not_served
    )
