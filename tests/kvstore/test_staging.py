"""A request that must evict much is prepared in slices, with others' requests between them."""

from __future__ import annotations

import secrets

from quire_kvstore.dispatch import AGAIN
from quire_kvstore.staging import SLICE
from quire_proto import messages as m
from quire_proto.codec import from_map
from quire_proto.envelope import decode_reply
from quire_proto.packed import pack
from tests.kvstore.service_fixture import Wire

BLOCKS, SIZE = 8 * SLICE, 4


def full_of_cache() -> tuple[Wire, bytes]:
    """A store whose pool is all cache, of one chain; its digests."""
    wire = Wire(blocks=BLOCKS)
    wire.open()
    digests = secrets.token_bytes(32 * BLOCKS)
    assert wire.ask("allocate", 2, m.Allocate(1, "t", SIZE * BLOCKS, digests)).code == ""
    step = m.Step(fills=pack([1, SIZE * BLOCKS]), seals=(m.Seal(1, 0, digests),))
    assert wire.ask("step", 3, step).code == ""
    assert wire.ask("free", 4, m.Free(pack([1]))).code == ""
    assert wire.store.state.pool.cached == BLOCKS
    return wire, digests


def test_room_is_made_a_slice_at_a_time() -> None:
    """Each turn evicts one slice and consumes nothing; then the request is executed, once."""
    wire, _ = full_of_cache()
    frame = wire.frame("step", 5, m.Step(allocates=(m.Allocate(2, "t", SIZE * 5 * SLICE),)))
    turns = 0
    while (answer := wire.dispatch.handle(b"peer", [frame], 0, 0)) == AGAIN:
        turns += 1
        assert wire.store.counters.evictions == turns * SLICE
        assert wire.ask("stats", 1 << 62).code == "", "others are served meanwhile"
        wire.store.check_invariants()

    assert answer is not None
    (allocated,) = from_map(m.Stepped, decode_reply(answer).body).allocates
    assert (turns, allocated.code, len(allocated.blocks) // 4) == (4, m.OK, 5 * SLICE)
    assert wire.dispatch.handle(b"peer", [frame], 0, 0) == answer
    wire.store.check_invariants()


def test_what_will_be_hit_is_not_evicted() -> None:
    """The prefix of the request is the oldest in the cache, and stays."""
    wire, digests = full_of_cache()
    hit = 2 * SLICE
    body = m.Allocate(2, "t", SIZE * 6 * SLICE, digests[: 32 * hit] + secrets.token_bytes(32 * 4 * SLICE))
    frame = wire.frame("allocate", 5, body)
    while (answer := wire.dispatch.handle(b"peer", [frame], 0, 0)) == AGAIN:
        wire.store.check_invariants()

    assert answer is not None
    allocated = from_map(m.Allocated, decode_reply(answer).body)
    assert (allocated.code, allocated.computed) == (m.OK, SIZE * hit)


def test_what_cannot_be_served_evicts_nothing() -> None:
    """No space is said at once."""
    wire, _ = full_of_cache()
    reply = wire.ask("allocate", 5, m.Allocate(2, "t", SIZE * (BLOCKS + 1)))
    assert reply.code in ("TOO_LARGE", "")
    assert wire.store.counters.evictions == 0
