"""Anthropic's API on a whole stack: the official client, a model that makes perfect calls, and the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.support.puppet import SCRIPTS, make_puppet
from tests.support.puppet_chats import PARAMETERS
from tests.support.stack import Stack, running_stack

pytestmark = pytest.mark.process
TOOLS: list[Any] = [{"name": "get_weather", "description": "The weather.", "input_schema": PARAMETERS}]
SYSTEM = "You look up the weather. " * 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("messages")
    with running_stack(tmp, make_puppet(tmp / "model"), engines=2) as it:
        yield it


@pytest.fixture
def client(stack: Stack) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=stack.url, api_key="any", max_retries=0) as made:
        yield made


def test_an_agent_works_and_what_it_said_before_comes_from_the_cache(client: anthropic.Anthropic) -> None:
    """A streamed call, its result, the last word; the second prompt is computed from where the first one ended."""
    messages: list[Any] = [{"role": "user", "content": "play says"}]
    asked: dict[str, Any] = {"model": "m", "max_tokens": 500, "system": SYSTEM, "tools": TOOLS, "messages": messages}
    with client.messages.stream(**asked) as stream:
        first = stream.get_final_message()
    text, call = first.content
    assert (text.text, call.input, first.stop_reason) == ("Let me look that up.", {"city": "Lima"}, "tool_use")
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "21"}]},
    ]
    last = client.messages.create(**asked)
    assert (last.content[0].text, last.stop_reason) == (SCRIPTS["final"], "end_turn")
    before = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert last.usage.cache_read_input_tokens >= before - 16
    assert last.usage.input_tokens < before


def test_a_prompt_may_be_computed_ahead(client: anthropic.Anthropic) -> None:
    """``max_tokens: 0``, and the request that follows reads all but its last token."""
    asked: dict[str, Any] = {
        "model": "m",
        "system": SYSTEM * 2,
        "messages": [{"role": "user", "content": "play muses"}],
    }
    assert client.messages.create(**asked, max_tokens=0).content == []
    message = client.messages.create(**asked, max_tokens=100)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.input_tokens <= 16
