"""A follower and its node: what is declared is in force there, what was taken back is not, all else is as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire_services.cluster.declarations.follower import Follower
from quire_services.cluster.declarations.node_files import NodeFiles, first_look
from quire_services.cluster.declarations.operator_file import changes_to, read_operator_file
from quire_services.cluster.declarations.records import DeclarationStore, StoreAway, StoreError
from quire_services.cluster.declarations.stores.address import open_store
from quire_services.config.declared_names import JOINED_FILE
from quire_services.config.key_digests import key_digest
from quire_services.config.loader import load_tenants
from tests.services.cluster.declarations.written_node import WrittenNode

BOTH = """
[[tenants]]
name = "ann"
keys = ["sk-ann"]
groups = ["g"]
limit = 100
guarantee = 10
[[tenants]]
name = "bob"
keys = ["sk-bob"]
[[published]]
id = "p"
file = "p.txt"
"""
ANN, BOB = (key_digest(f"sk-{name}").hex() for name in ("ann", "bob"))
Say = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> DeclarationStore:
    (tmp_path / "store").mkdir()
    return open_store(f"file://{tmp_path / 'store'}")


@pytest.fixture
def say(store: DeclarationStore, tmp_path: Path) -> Say:
    """Make the store say what a text says, and nothing beside."""
    (tmp_path / "p.txt").write_text("You are careful.")

    def said(text: str) -> None:
        (tmp_path / "declared.toml").write_text(text)
        values = read_operator_file(tmp_path / "declared.toml")
        store.write(changes_to(values, store.read(), prune=True))

    return said


class Followed:
    """A node and its follower."""

    def __init__(self, store: DeclarationStore, folder: Path, name: str = "a") -> None:
        self.node = WrittenNode()
        self.files = NodeFiles(folder / name)
        self.follower = Follower(name, store, self.node, self.files)  # type: ignore[arg-type]

    def turn(self) -> None:
        """A look at everything."""
        self.follower._shared_at = self.follower._applied_at = float("-inf")
        self.follower.turn()
        self.follower.publish()

    def word(self) -> dict[str, Any]:
        """What it says of itself now."""
        self.follower._tell()
        return self.node.word


def test_a_node_has_what_is_declared_and_loses_what_is_taken_back(
    store: DeclarationStore, say: Say, tmp_path: Path
) -> None:
    """Keys, groups, quotas and prompts; what an operator gave the node alone stays."""
    say(BOTH)
    it = Followed(store, tmp_path)
    node = it.node
    node.members.add(("own", "eve"))
    node.quotas["eve"] = {"limit": 7, "guarantee": 0, "weight": 100}
    node.published["own"] = {"domain": "public", "system": "x"}
    it.turn()
    it.turn()
    assert it.follower.joined
    assert node.keys == {ANN: "ann", BOB: "bob"}
    assert node.members == {("g", "ann"), ("own", "eve")}
    assert node.quotas["ann"] == {"limit": 100, "guarantee": 10, "weight": 100}
    assert node.published["p"]["system"] == "You are careful."

    before = list(node.told)
    it.turn()
    assert node.told == before

    say('[[tenants]]\nname = "bob"\nkeys = ["sk-bob"]\n')
    it.turn()
    assert (node.keys, node.members) == ({BOB: "bob"}, {("own", "eve")})
    assert node.quotas == {"ann": {"limit": 0, "guarantee": 0, "weight": 100}, "eve": node.quotas["eve"]}
    assert list(node.published) == ["own"]


def test_a_node_says_how_far_it_is(store: DeclarationStore, say: Say, tmp_path: Path) -> None:
    """The version that is all in force, when the store was read, what has failed and the shares of quotas; a version
    of which something is missing is not in force, and a store that is away ages."""
    say(BOTH)
    it = Followed(store, tmp_path)
    it.turn()
    it.turn()
    word = it.word()
    assert word["version"] == it.follower.version > 0
    assert word["look_age_s"] < 60
    assert (word["failures"], word["shares"]) == ({}, {"ann": 100})

    it.node.refuses.add("z")
    say(BOTH + '[[published]]\nid = "z"\nfile = "p.txt"\n')
    before = word["version"]
    it.turn()
    it.turn()
    assert it.word()["version"] == before < it.follower.version
    assert it.word()["failures"]["publications"] >= 2

    (tmp_path / "store").rename(tmp_path / "away")
    it.turn()
    first = it.word()
    it.turn()
    assert it.word()["look_age_s"] > first["look_age_s"]
    assert it.word()["failures"]["store"] > first["failures"]["store"] > 0
    assert it.word()["shares"] == {"ann": 100}


def test_a_request_that_was_too_large_is_claimed(store: DeclarationStore, say: Say, tmp_path: Path) -> None:
    """What a node's gateway could not admit under its share is there after three beats of both followers, and the
    gateway knows how much that may be at most; a limit that is lowered is lowered first."""
    say(BOTH)
    a, b = Followed(store, tmp_path, "a"), Followed(store, tmp_path, "b")
    a.node.used["ann"] = b.node.used["ann"] = (0, 50)

    def limits() -> tuple[int, int]:
        for _ in range(3):
            for it in (a, b):
                it.follower._told_at = float("-inf")
                it.turn()
                assert a.node.quotas["ann"]["limit"] + b.node.quotas.get("ann", {"limit": 0})["limit"] <= 101
        return a.node.quotas["ann"]["limit"], b.node.quotas["ann"]["limit"]

    assert limits() == (50, 50)
    assert a.word()["most"] == {"ann": 88}
    a.node.needs = {"ann": 80, "bob": 4}
    assert limits()[0] >= 80
    a.node.needs = {}
    assert limits()[0] < 80


def test_a_node_has_joined_once_all_is_in_force_there_and_anew_in_each_life(
    store: DeclarationStore, say: Say, tmp_path: Path
) -> None:
    """It can be seen in its files: not before its prompts are computed, and not from an earlier life."""
    say(BOTH)
    it = Followed(store, tmp_path)
    joined = tmp_path / "a" / JOINED_FILE
    it.follower.turn()
    assert not joined.exists()
    it.turn()
    it.turn()
    assert joined.exists()
    first_look(store, it.files)
    assert not joined.exists()


def test_a_node_that_was_changed_by_hand_is_mended(store: DeclarationStore, say: Say, tmp_path: Path) -> None:
    """Also one that lost everything, as a kvstore with a new state directory has."""
    say(BOTH)
    it = Followed(store, tmp_path)
    it.turn()
    it.turn()
    fresh = WrittenNode()
    fresh.members.add(("g", "ann"))
    it.follower._node = it.node = fresh  # type: ignore[assignment]
    it.turn()
    assert (fresh.keys, list(fresh.published)) == ({ANN: "ann", BOB: "bob"}, ["p"])
    assert fresh.quotas["ann"]["limit"] == 100


def test_what_a_node_refuses_keeps_nothing_else_back(store: DeclarationStore, say: Say, tmp_path: Path) -> None:
    """Not the prompts behind it, nor keys; the others see it in the store, and it is not joined."""
    say(BOTH + BOTH.partition("[[published]]")[2].join(("[[published]]", "")).replace('"p"', '"z"'))
    it = Followed(store, tmp_path)
    it.node.refuses.add("p")
    it.turn()
    it.turn()
    assert (list(it.node.published), it.node.keys) == (["z"], {ANN: "ann", BOB: "bob"})
    assert not it.follower.joined
    assert store.table("shares").read()["node/a"].value["problems"] == ["publications"]  # type: ignore[index]
    it.node.refuses.clear()
    it.turn()
    it.turn()
    assert it.follower.joined


def test_a_node_that_comes_back_is_told_again(store: DeclarationStore, say: Say, tmp_path: Path) -> None:
    """While nothing listens there the store is read on; what was declared meanwhile is in force at its next turn."""
    say(BOTH)
    it = Followed(store, tmp_path)
    it.turn()
    it.turn()
    it.node.away = True
    say('[[tenants]]\nname = "ann"\nkeys = ["sk-new"]\n')
    it.turn()
    assert not it.follower.joined
    assert it.node.keys == {ANN: "ann", BOB: "bob"}
    it.node.away = False
    it.turn()
    assert it.node.keys == {key_digest("sk-new").hex(): "ann"}


def test_a_store_that_is_away_changes_nothing(store: DeclarationStore, say: Say, tmp_path: Path) -> None:
    """Neither on a node that follows it, nor on one that starts; nor does one that comes back and is empty."""
    say(BOTH)
    it = Followed(store, tmp_path)
    it.turn()
    it.turn()
    there, gone = tmp_path / "store", tmp_path / "elsewhere"
    there.rename(gone)
    before = (dict(it.node.keys), dict(it.node.quotas), set(it.node.members))
    it.turn()
    assert (it.node.keys, it.node.quotas, it.node.members) == before

    again = Followed(store, tmp_path)  # its next life, with what it kept
    again.turn()
    assert again.node.keys == it.node.keys
    assert again.node.quotas["ann"]["limit"] == 1  # until it has a share again

    there.mkdir()
    again.turn()
    assert (again.node.keys, again.node.members) == (before[0], before[2])


def test_a_gateway_begins_with_the_keys_and_never_open(store: DeclarationStore, say: Say, tmp_path: Path) -> None:
    """From the store, from what was kept while it is away, closed where nothing is declared; else it waits."""
    keys, files = tmp_path / "n" / "keys.toml", NodeFiles(tmp_path / "n")

    def digests() -> list[str]:
        return sorted(key for tenant in load_tenants(keys) for key in tenant.keys)

    assert first_look(store, files) == 0
    assert [tenant.name for tenant in load_tenants(keys)] == ["closed"]
    say(BOTH)
    version = first_look(store, files)
    assert version == store.revision()
    assert digests() == sorted([f"sha256:{ANN}", f"sha256:{BOB}"])
    assert "sk-" not in keys.read_text()

    (tmp_path / "store").rename(tmp_path / "elsewhere")
    keys.unlink()
    assert first_look(store, files) == version
    assert digests() == sorted([f"sha256:{ANN}", f"sha256:{BOB}"])
    with pytest.raises(StoreAway):
        first_look(store, NodeFiles(tmp_path / "new"))
    assert not (tmp_path / "new" / "keys.toml").exists()


def test_what_a_node_kept_is_not_guessed(store: DeclarationStore, tmp_path: Path) -> None:
    """A damaged file may have held the end of a key: the start says so, and names it."""
    files = NodeFiles(tmp_path / "n")
    for damaged in ("", '[["key", "x", 1, [1]]]', "[[1]]", '{"a": 1}', '[["key", "x", "y", {}]]'):
        (tmp_path / "n" / "declarations.json").write_text(damaged)
        with pytest.raises(StoreError, match=r"declarations\.json"):
            first_look(store, files)


def test_a_second_follower_of_a_name_is_told(store: DeclarationStore, say: Say, tmp_path: Path) -> None:
    """Its keys are in force all the same; its quotas are not settled."""
    say(BOTH)
    one, two = Followed(store, tmp_path / "1"), Followed(store, tmp_path / "2")
    for _ in range(2):
        one.turn()
        two.turn()
    said: dict[str, Any] = one.follower._said | two.follower._said
    assert "another follower calls itself 'a', too" in said["shares"]
    assert one.node.keys == two.node.keys == {ANN: "ann", BOB: "bob"}
