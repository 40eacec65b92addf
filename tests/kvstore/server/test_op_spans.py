"""The spans of ops that are parts of traced requests."""

from __future__ import annotations

import pytest

from quire_kvstore.server.handlers import SEQUENCE_OPS
from quire_proto import messages as m
from quire_proto.messages.handoff import Adopt, Offer
from tests.support.recorded_spans import RecordedSpans
from tests.support.service import BareService


def service() -> tuple[BareService, RecordedSpans]:
    """One with a session, and what it tells."""
    told = RecordedSpans()
    wire = BareService(tracer=told)
    wire.open()
    return wire, told


def test_each_traced_item_of_a_step_has_a_span_in_what_asked_for_it() -> None:
    """With its own code; what is not traced, or is by its caller not recorded, has none."""
    wire, told = service()
    allocates = (
        m.Allocate(1, "t", 8, trace="first"),
        m.Allocate(2, "t", 8),
        m.Allocate(3, "t", 8, trace="x"),
    )
    step = m.Step(
        allocates=allocates, offers=(Offer(9, bytes(16), 5, "offer"),), adopts=(Adopt(bytes(16), 5, "adopt"),)
    )
    assert wire.ask("step", 2, step).code == ""

    found = {(one.name, one.parent, one.attributes["quire.code"], one.ends) for one in told.spans}
    assert found == {
        ("allocate", "first", "OK", 1),
        ("offer", "offer", "NO_SUCH", 1),
        ("adopt", "adopt", "NO_SUCH", 1),
    }
    assert {one.attributes["quire.op"] for one in told.spans} == {"step"}


def test_an_op_by_itself_has_one_too_and_fails_with_its_error() -> None:
    """Its code is the error's; a resend is answered and told of no second time."""
    wire, told = service()
    frame = wire.frame("allocate", 2, m.Allocate(1, "t", 8, trace="good"))
    assert wire.send(frame).code == wire.send(frame).code == ""
    assert wire.ask("adopt", 3, Adopt(bytes(16), 5, "bad")).code == "NOT_FOUND"

    assert [(one.parent, one.error, one.ends) for one in told.spans] == [("good", "", 1), ("bad", "NOT_FOUND", 1)]


def test_a_bug_ends_the_span_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """With INTERNAL, as its reply says."""
    wire, told = service()
    monkeypatch.setitem(SEQUENCE_OPS, "allocate", lambda *_: 1 / 0)
    assert wire.ask("allocate", 2, m.Allocate(1, "t", 8, trace="good")).code == "INTERNAL"

    assert [(one.error, one.ends) for one in told.spans] == [("INTERNAL", 1)]


def test_a_context_that_is_none_changes_nothing() -> None:
    """Whatever is in the field, the reply is the same."""
    wire, _ = service()
    plain, _ = service()
    odd = m.Allocate(1, "t", 8, trace="\x00" * 50_000)

    assert wire.ask("allocate", 2, odd).body == plain.ask("allocate", 2, m.Allocate(1, "t", 8)).body
