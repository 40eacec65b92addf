"""Content formats: what a request says that an answer's text must be, in the words of OpenAI's API and of vLLM's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .annotations import bare
from .equivalents import equivalent
from .lark_rules import LarkRules, lark_string
from .schemas import ANY_OBJECT, closed

_Kind = Literal["json", "regex", "choice", "grammar"]
MOST_CHOICES = 10_000


class ContentFormatInvalid(ValueError):
    """A format that cannot be; the message is for the client.

    Attributes:
        param: path of the parameter.
    """

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


@dataclass(frozen=True, slots=True)
class ContentFormat:
    """What content must be: JSON of a schema, text of a regular expression, one of several texts, or of a grammar.

    Attributes:
        param: path of the parameter that says so.
        strict: a schema that is not may say what llguidance does not know.
        whitespace: a regular expression for what may stand between the tokens of JSON; empty: as it is usual.
    """

    kind: _Kind
    value: Any
    param: str = "response_format"
    strict: bool = True
    whitespace: str = ""

    def rule(self, rules: LarkRules) -> str:
        """Name of a rule for it. Raises ContentFormatInvalid."""
        match self.kind:
            case "json":
                return rules.json(closed(equivalent(bare(self.value))), not self.strict, self.whitespace)
            case "regex":
                return rules.rule(f"/{_pattern(self.value)}/")
            case "choice":
                return rules.rule(" | ".join(map(lark_string, self.value)))
            case "grammar":
                return rules.rule(f"%lark {{\n{_lark(self.value, self.param)}\n}}")

    def grammar(self) -> str:
        """The grammar of a text that is nothing else. Raises ContentFormatInvalid."""
        rules = LarkRules({})
        return rules.text(self.rule(rules))


def content_format_of(
    response_format: Any, structured: Mapping[str, Any] | None = None, guided: Mapping[str, Any] | None = None
) -> ContentFormat | None:
    """The format that ``response_format`` (or ``text.format`` of a response), ``structured_outputs`` and the older
    ``guided_*`` (by what follows the ``guided_``) say together; None for any text. Raises ContentFormatInvalid."""
    found = (
        _of_response(response_format),
        _of_structured(structured or {}, "structured_outputs", "."),
        _of_structured(guided or {}, "guided", "_"),
    )
    said = [one for one in found if one]
    if len(said) > 1:
        raise ContentFormatInvalid(said[1].param, f"cannot be given together with {said[0].param!r}")
    return said[0] if said else None


def _of_response(given: Any) -> ContentFormat | None:
    kind = given.get("type") if isinstance(given, Mapping) else None
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return ContentFormat("json", ANY_OBJECT, "response_format")
    if kind != "json_schema":
        raise ContentFormatInvalid("response_format.type", "must be 'text', 'json_object' or 'json_schema'")
    inner = given.get("json_schema", given)
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    strict = bool(isinstance(inner, Mapping) and inner.get("strict"))
    param = "response_format.json_schema.schema"
    return ContentFormat("json", _schema(schema, param), param, strict)


def _of_structured(given: Mapping[str, Any], within: str, joint: str) -> ContentFormat | None:
    said = {name: value for name, value in given.items() if name in _KINDS and value not in (None, False)}
    if given.get("structural_tag") is not None:
        raise ContentFormatInvalid(f"{within}{joint}structural_tag", "is not served; tools are held to their schemas")
    if len(said) > 1:
        first, second, *_ = (f"{within}{joint}{name}" for name in said)
        raise ContentFormatInvalid(second, f"cannot be given together with {first!r}")
    whitespace = given.get("whitespace_pattern")
    if whitespace is not None:
        whitespace = _text(whitespace, f"{within}{joint}whitespace_pattern")
    for name, value in said.items():
        kind, read = _KINDS[name]
        param = f"{within}{joint}{name}"
        return ContentFormat(kind, read(value, param), param, whitespace=whitespace or "")
    return None


def _schema(given: Any, param: str) -> Any:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = None
    options = given.get("x-guidance") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping | bool) or not isinstance(options, Mapping | None):
        raise ContentFormatInvalid(param, "must be a JSON schema")
    return given


def _text(given: Any, param: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise ContentFormatInvalid(param, "must be a text that is not empty")
    return given


def _choices(given: Any, param: str) -> list[str]:
    if not isinstance(given, list) or not given or not all(isinstance(one, str) and one for one in given):
        raise ContentFormatInvalid(param, "must be a list of texts that are not empty")
    if len(given) > MOST_CHOICES:
        raise ContentFormatInvalid(param, f"may have {MOST_CHOICES} texts")
    return given


_KINDS: dict[str, tuple[_Kind, Callable[[Any, str], Any]]] = {
    "json": ("json", _schema),
    "json_object": ("json", lambda _given, _param: ANY_OBJECT),
    "regex": ("regex", _text),
    "choice": ("choice", _choices),
    "grammar": ("grammar", _text),
}


def _pattern(regex: str) -> str:
    """A regular expression as Lark has it; digits and letters of words are those of ASCII, as in JSON schemas."""
    from llguidance import regex_to_lark

    return str(regex_to_lark(regex, "dw"))


def _lark(text: str, param: str) -> str:
    """A grammar in Lark's syntax as it is, one in that of llama.cpp (GBNF) made Lark's."""
    if "::=" not in text:
        return text
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # of its own kinds, and of any other for texts that are none
        raise ContentFormatInvalid(param, f"is not valid: {error}") from None
