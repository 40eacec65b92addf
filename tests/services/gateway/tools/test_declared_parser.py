"""Answers of models that declare more than formats can say, by transformers' own parser."""

from __future__ import annotations

from typing import Any

import pytest

from quire_services.gateway.tools.declared_parser import DeclaredParser
from quire_services.gateway.tools.format_choice import declared_format
from tests.services.gateway.tools.samples import CALLED, TOOLS, summary

DIALECT: dict[str, Any] = {
    "start_anchor": "<|turn>model\n",
    "fields": {
        "thinking": {"open": "<|thought>", "close": "<thought|>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<\|call>(?P<name>\w+)",
            "close": "<call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [["<q>", "<q>"]]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": "<turn|>", "content": "text"},
    },
}
CALL = "<|call>weather{city:<q>Rome<q>,days:2}<call|>"


def parsed(*pieces: str, prompt: str = "<|turn>model\n") -> list[Any]:
    parser = DeclaredParser(DIALECT, TOOLS, prompt)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return summary(events + parser.finish())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello.", ["Hello."]),
        (CALL, [CALLED]),
        (f"<|thought>Hm.\n<thought|>\nSure. {CALL}{CALL}", ["~Hm.", "Sure.", CALLED, CALLED]),
        ("<|call>weather{city:<call|> and more", ["{city: and more"]),
    ],
)
def test_regions_become_events(text: str, expected: list[Any]) -> None:
    assert parsed(text) == parsed(*text) == expected


def test_such_a_template_is_no_format() -> None:
    assert declared_format(DIALECT) is None


def test_a_region_that_the_prompt_has_opened() -> None:
    assert parsed("Hm.<thought|>Yes.", prompt="<|turn>model\n<|thought>") == ["~Hm.", "Yes."]


@pytest.mark.parametrize("end", range(CALL.index("<call|>")))
def test_a_cut_call_is_no_call(end: int) -> None:
    assert not [one for one in parsed(CALL[:end]) if isinstance(one, tuple)]
