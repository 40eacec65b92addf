"""The kvstore collects cycles rarely: what its work leaves behind must go by reference counts."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from quire_kvstore.server.task import Task
from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32
from tests.support.frame_fuzzer import Fuzzer
from tests.support.service import BareService

LIVES, FRAMES = 4, 500


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def life(number: int) -> None:
    """A store, sequences that come and go, and damaged requests of every op."""
    wire = BareService(blocks=64)
    wire.open(b"target-session..", pid=2)
    wire.open(number.to_bytes(16, "big"))
    fuzzer = Fuzzer(number)
    for _ in range(FRAMES):
        session = wire.store.state.sessions.get(wire.session)
        number = session.window.next_number if session else 0
        wire.dispatch.handle(Task(b"fuzz", [fuzzer.frame(wire.service.boot, wire.session, number)], 0), 0)
    wire.open(b"another-session.", pid=3)
    for i in range(20):
        assert wire.ask("allocate", 2 * i + 2, m.Allocate(i, "t", 4)).code == ""
        assert wire.ask("free", 2 * i + 3, m.Free(pack_u32([i]))).code == ""
    wire.store.check_invariants()


@pytest.mark.usefixtures("collector_off")
def test_requests_make_no_cycles() -> None:
    """Thousands of requests, most of them refused: a collection afterwards finds a handful of objects at most."""
    life(0)  # caches of modules
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1, LIVES + 1):
        life(number)

    found = gc.collect()
    assert found < FRAMES / 10, f"{found} objects were in cycles"
    assert len(gc.get_objects()) < before + 1000
