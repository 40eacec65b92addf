"""The ways to choose among tools, in the forms of both APIs."""

from __future__ import annotations

from typing import Any

import pytest

from quire_services.gateway.tools.grammar.tool_choice import ToolChoiceInvalid, tool_choice_of

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("a", "b", "c")]
FLAT = [{"type": "function", "name": name} for name in ("a", "b", "c")]


def named(name: str, flat: bool = False) -> dict[str, Any]:
    return {"type": "function", "name": name} if flat else {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("choice", "mode", "names", "one"),
    [
        (None, "auto", "abc", False),
        ("auto", "auto", "abc", False),
        ("none", "none", "", False),
        ("required", "required", "abc", False),
        (named("b"), "required", "b", True),
        (named("b", flat=True), "required", "b", True),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("c"), named("a")]}},
            "auto",
            "ca",
            False,
        ),
        ({"type": "allowed_tools", "mode": "required", "tools": [named("a", flat=True)]}, "required", "a", False),
    ],
)
def test_choices(choice: Any, mode: str, names: str, one: bool) -> None:
    for tools in (TOOLS, FLAT):
        found = tool_choice_of(choice, tools)
        assert (found.mode, "".join(f["name"] for f in found.functions), found.one) == (mode, names, one)


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        7,
        named("d"),
        {"type": "function"},
        {"type": "custom", "name": "a"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": [named("a")]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": "a"},
    ],
)
def test_choices_that_cannot_be_made(choice: Any) -> None:
    with pytest.raises(ToolChoiceInvalid):
        tool_choice_of(choice, TOOLS)


def test_without_tools() -> None:
    for choice in (None, "auto", "none"):
        assert tool_choice_of(choice, None).mode == "none"
    with pytest.raises(ToolChoiceInvalid, match="no tools"):
        tool_choice_of("required", [])
