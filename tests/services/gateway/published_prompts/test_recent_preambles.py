"""What is kept of requests: their beginnings, a tenant's own, within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.published_prompts.preamble import MAX_PACKED_CHARS, packed_preamble
from quire_services.gateway.published_prompts.recent_preambles import RecentPreambles

SYSTEM = {"role": "system", "content": "You are careful."}
SECRET = {"role": "user", "content": "my secret"}


def packed(**fields: Any) -> str:
    """What is kept of a request."""
    return packed_preamble(ChatBody.model_validate({"model": "m", "messages": [SYSTEM, SECRET]} | fields))


def test_nothing_of_the_conversation_is_kept() -> None:
    """System messages in front, tools and variables of the template; no word behind them, and no other parameter."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    later = {"role": "system", "content": "my other secret"}
    kept = packed(messages=[SYSTEM, SECRET, later], tools=tools, user="me", chat_template_kwargs={"a": 1}, seed=4)

    assert "secret" not in kept
    assert json.loads(kept) == {
        "model": "m", "messages": [SYSTEM, {"role": "user", "content": "-"}], "tools": tools,
        "chat_template_kwargs": {"a": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [{"messages": [SECRET]}, {"cache_salt": "s"}, {"messages": [SYSTEM | {"content": "x" * MAX_PACKED_CHARS}, SECRET]}],
)
def test_what_is_not_kept(fields: dict[str, Any]) -> None:
    """A request without a beginning, one that asks to share nothing, and one without end."""
    assert packed(**fields) == ""


def test_a_tenant_has_its_own() -> None:
    """An id says nothing under another tenant's name, and one tenant's requests put none of another's out."""
    recent = RecentPreambles(2)
    recent.keep("ann", "r1", "one")
    recent.keep("bob", "r1", "other")
    for number in range(9):
        recent.keep("bob", f"b{number}", "x")

    assert (recent.get("ann", "r1"), recent.get("bob", "r1"), recent.get("eve", "r1")) == ("one", None, None)
    assert [recent.get("bob", f"b{number}") for number in (6, 7, 8)] == [None, "x", "x"]


def test_the_oldest_go_first() -> None:
    """Beyond the bytes of a tenant, too; the same id again counts once; none are kept where none are wanted."""
    recent = RecentPreambles(9, most_bytes=10)
    for name in ("a", "b", "b", "c"):
        recent.keep("t", name, name * 4)
    off = RecentPreambles(0)
    off.keep("t", "a", "a")

    assert [recent.get("t", name) for name in "abc"] == [None, "bbbb", "cccc"]
    assert off.get("t", "a") is None
