"""Declarations go to the disk aside: others are served, and nothing is true or said before it is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir
from quire_kvstore.server.quota import QUOTAS_DOCUMENT
from quire_proto import messages as m
from quire_proto.messages import sharing as a
from quire_proto.messages.tenants import SetQuota
from quire_proto.wire.envelope import Reply, decode_reply
from quire_proto.wire.u32 import pack_u32
from tests.support.service import BareService
from tests.support.slow_disk import SlowDisk

NUMBER = 1 << 62
PROMPT = a.Publish("q", "public", pack_u32(range(8)))


class Slow(BareService):
    """A service with a slow disk, and requests that are handled as often as it takes."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.state_dir = self.service.state_dir = StateDir(directory)
        self.service.declarations = Declarations(self.state_dir)
        self.disk = self.service.disk = SlowDisk()

    def reply(self, frame: bytes) -> Reply | None:
        """Handle once more; the reply, or None if it waits."""
        answer = self.turn(frame)
        return None if answer is None else decode_reply(answer)

    @property
    def published(self) -> list[str]:
        """Ids of all publications."""
        return [record.id for record in self.store.state.publications.all()]


@pytest.fixture
def wire(tmp_path: Path) -> Slow:
    """An open session."""
    wire = Slow(tmp_path)
    wire.open()
    return wire


def test_a_prompt_is_published_when_it_is_saved(wire: Slow, tmp_path: Path) -> None:
    """Meanwhile others are served, and it is neither listed nor answered; a repetition changes nothing."""
    frame = wire.frame("publish", NUMBER, PROMPT)
    assert wire.reply(frame) is None
    assert wire.ask("step", 2, m.Step()).code == ""
    assert wire.reply(frame) is None
    assert wire.published == ["p"]
    assert not (tmp_path / "publications").exists()
    assert wire.disk.turn() == 1
    assert wire.published == ["p"]
    reply = wire.reply(frame)

    assert reply is not None
    assert reply.code == ""
    assert (tmp_path / "publications" / "q.json").exists()
    assert wire.published == ["p", "q"]
    assert wire.service.op_times["publish"].count == 1


def test_declarations_go_one_after_the_other(wire: Slow) -> None:
    """The second is judged by what the first has made true."""
    first = wire.frame("publish", NUMBER, PROMPT)
    second = wire.frame("unpublish", NUMBER + 1, a.Unpublish("q"))
    assert wire.reply(first) is None
    assert wire.reply(second) is None
    assert wire.disk.turn() == 1
    assert wire.reply(second) is None, "not before the first has its answer"
    assert wire.reply(first) is not None
    assert wire.reply(second) is None
    assert wire.disk.turn() == 1
    reply = wire.reply(second)

    assert reply is not None
    assert (reply.code, wire.published) == ("", ["p"])


def test_what_cannot_be_saved_changes_nothing(wire: Slow, tmp_path: Path) -> None:
    """The reply says why, and the next declaration has its turn."""
    (tmp_path / "publications").write_text("a file where the folder should be")
    frame = wire.frame("publish", NUMBER, PROMPT)
    assert wire.reply(frame) is None
    wire.disk.turn()
    reply = wire.reply(frame)

    assert reply is not None
    assert (reply.code, wire.published) == ("CONFLICT", ["p"])
    join = wire.frame("join", NUMBER, a.Join("t", "g"))
    assert wire.reply(join) is None
    wire.disk.turn()
    assert wire.reply(join) is not None
    assert wire.store.state.groups.entitled("t", "g")


def test_a_limit_that_is_broken_while_it_is_saved_is_taken_back(wire: Slow) -> None:
    """Requests that got more meanwhile hold more than it: it is refused, and the disk says what it said before."""
    assert wire.reply(before := wire.frame("quota", NUMBER, SetQuota("t", weight=7))) is None
    wire.disk.turn()
    assert wire.reply(before) is not None
    frame = wire.frame("quota", NUMBER, SetQuota("t", limit=2))
    assert wire.reply(frame) is None
    assert wire.ask("allocate", 2, m.Allocate(1, "t", 12)).code == ""
    assert wire.disk.turn() == 1
    assert (wire.state_dir.read(QUOTAS_DOCUMENT) or {})["tenants"]["t"]["limit"] == 2
    assert wire.reply(frame) is None
    assert wire.disk.turn() == 1
    reply = wire.reply(frame)

    assert reply is not None
    assert (reply.code, reply.body["detail"]) == ("CONFLICT", {"held": 3})
    assert (wire.state_dir.read(QUOTAS_DOCUMENT) or {})["tenants"]["t"] == {"limit": 0, "guarantee": 0, "weight": 7}
    assert not wire.service.declaring
