"""Which tenant hits what, in pairs: one that may, and one that may not, with the same prompt on the same stack.

Each pair asks twice for the one that may not, so that a hit on either engine would show.
"""

from __future__ import annotations

import json

import pytest

from tests.isolation.conftest import BLOCK, House, words

pytestmark = pytest.mark.process


def test_a_private_prompt_is_hit_by_its_tenant_and_by_nobody_else(house: House) -> None:
    """The same tokens under another key find nothing, and then only what that tenant computed itself."""
    system, user = words(1, 150), words(2, 40)
    whole = (house.chat("ann", system, user).prompt_tokens - 1) // BLOCK * BLOCK

    assert house.cached("ann", system, user) == whole
    assert house.cached("eve", system, user) == 0
    assert house.cached("eve", system, user) == whole
    assert house.cached("bob", system, user) == 0  # of a group with ann: groups share publications, nothing else


def test_a_group_shares_with_its_members_only(house: House) -> None:
    """Ready and pinned all the while: a member hits it whole; another tenant computes it alone and is told nothing."""
    system = words(3, 100)
    length = house.publish("team", system, "research")

    assert house.cached("ann", system, words(4, 20)) == length
    assert house.cached("bob", system, words(5, 20)) == length
    assert house.cached("eve", system, words(6, 20)) == 0
    assert house.published("team").state == "ready"


def test_who_leaves_a_group_misses_from_then_on(house: House) -> None:
    """Joined: a hit. Left: a miss, and no longer than its own computing explains. The others go on hitting."""
    system = words(7, 90)
    length = house.publish("club", system, "research")
    house.quire("group", "join", "research", "cat")
    house.settle()
    assert house.cached("cat", system, words(8, 20)) == length

    house.quire("group", "leave", "research", "cat")

    assert house.cached("cat", system, words(9, 20)) == 0
    assert house.cached("cat", system, words(9, 20)) > 0  # its own, computed a moment ago
    assert house.cached("bob", system, words(10, 20)) == length
    assert house.cached("eve", system, words(11, 20)) == 0


@pytest.mark.parametrize("tail", [0, 1, 15])
def test_a_prompt_published_on_the_running_stack_is_hit_whole(house: House, tail: int) -> None:
    """By tenants of no common group, each with its own message; what stands past the last block edge is a hit, too."""
    system = words(20 + tail, 5 * BLOCK + tail - len(["<bos>", "<system>"]))  # tools would stand next
    length = house.publish(f"tail-{tail}", system, "public")

    assert length % BLOCK == tail
    assert house.cached("ann", system, words(12, 20)) == length
    assert house.cached("eve", system, words(13, 20)) == length
    assert house.cached("bob", system, words(14, 300)) == length


def test_tools_belong_to_it(house: House) -> None:
    """A request with the same system message and tools hits all of it; one with other tools, or none, nothing."""
    tools = [{"type": "function", "function": {"name": f"w{n}", "parameters": {}}} for n in range(40)]
    (house.folder / "tools.json").write_text(json.dumps(tools))
    system = words(40, 60)
    length = house.publish("tooled", system, "public", f"--tools={house.folder / 'tools.json'}")

    assert length > 60 + 2 * 40
    assert house.cached("ann", system, words(15, 20), tools=tools, tool_choice="none") == length
    assert house.cached("eve", system, words(16, 20), tools=tools, tool_choice="none") == length
    assert house.cached("eve", system, words(17, 20), tools=tools[1:], tool_choice="none") == 0
    assert house.cached("ann", system, words(18, 20)) == 0


def test_nothing_is_hit_before_the_end_of_a_publication(house: House) -> None:
    """A request that begins with all of it but the last word is private: publications are hit whole or not at all."""
    system = words(41, 100)
    house.publish("whole", system, "public")

    assert house.cached("ann", system.rpartition(" ")[0] + " w231", words(19, 20)) == 0


def test_unpublished_is_private_again(house: House) -> None:
    """From the moment the command returns, no new request finds it."""
    system = words(42, 100)
    length = house.publish("gone", system, "public")
    assert house.cached("ann", system, words(43, 20)) == length

    assert house.quire("prefix", "unpublish", "gone") == "gone: unpublished\n"

    assert house.cached("bob", system, words(44, 20)) == 0
    assert house.cached("eve", system, words(45, 20)) == 0
    assert "NOT_FOUND" in house.quire("prefix", "unpublish", "gone", code=1)
