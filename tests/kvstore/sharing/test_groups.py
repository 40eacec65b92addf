"""Groups: members are declared or join, leaving bumps the generation, and all of it comes back after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir, StateError
from quire_kvstore.sharing.groups import Groups
from quire_kvstore.sharing.publications import PublicationList


def test_members_are_entitled_to_their_groups_and_to_public() -> None:
    """Declared and joined members alike; no other tenant."""
    groups = Groups([("research", "a")])
    groups.join("b", "research")

    assert [groups.entitled(tenant, "research") for tenant in "abc"] == [True, True, False]
    assert groups.entitled("c", "public")
    assert groups.domains("a") == {"public": 1, "research": 1}
    assert groups.domains("c") == {"public": 1}


def test_leaving_bumps_the_generation() -> None:
    """Of that group alone."""
    groups = Groups([("research", "a"), ("sales", "a")])
    groups.join("b", "research")
    groups.leave("b", "research")

    assert not groups.entitled("b", "research")
    assert groups.domains("a") == {"public": 1, "research": 2, "sales": 1}


def test_groups_come_back(tmp_path: Path) -> None:
    """A tenant that joined is a member after a restart, under the generation of before."""
    keep = Declarations(StateDir(tmp_path))
    groups = keep.groups([("research", "a")])
    for tenant in "bc":
        groups.join(tenant, "research")
    groups.leave("c", "research")
    keep.save_groups(groups)

    again = keep.groups([("research", "a")])

    assert again.members() == [("research", "a"), ("research", "b")]
    assert again.generation("research") == 2


def test_who_is_declared_no_more_has_left(tmp_path: Path) -> None:
    """A restart with another configuration bumps the generation once, unless the tenant had joined as well."""
    keep = Declarations(StateDir(tmp_path))
    groups = keep.groups([("g", "a"), ("g", "b"), ("h", "a")])
    groups.join("a", "h")
    keep.save_groups(groups)

    for _ in range(2):
        again = keep.groups([("g", "a")])
        assert again.members() == [("g", "a"), ("h", "a")]
        assert (again.generation("g"), again.generation("h")) == (2, 1)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"joined": [], "members": [], "generations": []},
        {"joined": [], "members": [], "generations": {"g": 0}},
        {"joined": [], "members": [["g"]], "generations": {}},
        {"joined": [["g", "../a"]], "members": [], "generations": {}},
    ],
)
def test_a_damaged_document_stops_the_start(tmp_path: Path, document: dict[str, Any]) -> None:
    """A leaving that is forgotten would let a former member in: the error names the file."""
    StateDir(tmp_path).write("groups", document)

    with pytest.raises(StateError, match=r"groups\.json"):
        Declarations(StateDir(tmp_path)).groups([])


@pytest.mark.parametrize(
    "document",
    [{}, {"domain": "public"}, {"domain": "public", "tokens": "x"}, {"domain": "(x)", "tokens": "AQAAAA=="}],
)
def test_a_damaged_publication_stops_the_start(tmp_path: Path, document: dict[str, Any]) -> None:
    """The error names the file."""
    StateDir(tmp_path).write("publications/p", document)

    with pytest.raises(StateError, match=r"publications/p\.json"):
        Declarations(StateDir(tmp_path)).restore_publications(PublicationList())
