"""Retire list, step builder, publication matching and limits: the client's own rules, without a socket."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire_proto.limits import check_body, check_frame, items
from quire_proto.messages import (
    Allocate,
    Allocated,
    Extend,
    Fork,
    Free,
    Limits,
    Publication,
    Seal,
    Sealed,
    Shortage,
    Step,
    Stepped,
)
from quire_proto.step.publication_matcher import PublicationList
from quire_proto.step.retire import RetireList
from quire_proto.step.step_builder import StepBuilder, results
from quire_proto.wire.errors import Internal, LimitError
from quire_proto.wire.u32 import pack_u32, unpack_u32

LIMITS = Limits(frame_bytes=1000, items=4, blocks=8, window=8)


@given(st.lists(st.tuples(st.sampled_from(["release", "copy", "swap", "complete", "build"]), st.integers(0, 6))))
def test_nothing_is_given_up_before_its_step_completed(events: list[tuple[str, int]]) -> None:
    """Whatever the order of events, a reference leaves only after complete() of its step, and leaves once."""
    retire, done = RetireList(), -1
    builder = StepBuilder(retire)
    recorded: list[int] = []
    for number, (kind, step) in enumerate(events):
        if kind == "complete":
            done = max(done, step)
            retire.complete(done)
        elif kind == "build":
            sent = builder.build() or Step()
            for item in [*unpack_u32(sent.releases), *unpack_u32(sent.copies_done), *unpack_u32(sent.swaps)[::3]]:
                assert events[item][1] <= done
                recorded.remove(item)
        else:
            recorded.append(number)
            {"release": retire.release, "copy": retire.copy_done}.get(
                kind, lambda at, sequence: retire.swap(at, sequence, 0, 0)
            )(step, number)
    assert retire.waiting() == len(recorded)


def test_a_release_waits_for_what_the_same_message_says_about_the_sequence() -> None:
    """Releases are applied first in a step, so one that would undo this message's seal goes with the next."""
    retire = RetireList()
    builder = StepBuilder(retire)
    builder.seal(7, 0, bytes(32))
    retire.release(0, 7)
    retire.release(0, 8)
    retire.complete(0)

    assert builder.build() == Step(releases=pack_u32([8]), seals=(Seal(7, 0, bytes(32)),))
    assert builder.build() == Step(releases=pack_u32([7]))
    assert builder.build() is None


def test_a_swap_of_a_released_sequence_is_dropped() -> None:
    """The canonical block's pin goes with the sequence: nothing is left to swap."""
    retire = RetireList()
    retire.swap(0, 7, 1, 40)
    retire.release(0, 7)
    retire.complete(0)

    assert StepBuilder(retire).build() == Step(releases=pack_u32([7]))


def test_a_long_seal_is_said_in_pieces() -> None:
    """No item names more than 512 blocks, and each has the tokens of its own."""
    digests, tokens = pack_u32(range(8 * 1200)), pack_u32(range(16 * 1200))
    builder = StepBuilder(RetireList())
    builder.seal(1, 3, digests[: 32 * 100], tokens[: 64 * 100])
    builder.seal(1, 103, digests[32 * 100 :], tokens[64 * 100 :])

    step = builder.build()

    assert step is not None
    assert [(seal.first, len(seal.digests) // 32) for seal in step.seals] == [(3, 512), (515, 512), (1027, 176)]
    assert b"".join(seal.digests for seal in step.seals) == digests
    assert [seal.tokens for seal in step.seals] == [
        tokens[: 64 * 512],
        tokens[64 * 512 : 64 * 1024],
        tokens[64 * 1024 :],
    ]


def test_the_builder_merges_what_belongs_together() -> None:
    """One fill mark and one capacity a sequence, adjacent seals as one."""
    builder = StepBuilder(RetireList())
    builder.fill(1, 16)
    builder.fill(1, 20)
    builder.extend(1, 48)
    builder.extend(1, 32)
    builder.seal(1, 0, b"a" * 32)
    builder.seal(1, 1, b"b" * 32)
    builder.seal(2, 2, b"c" * 32)
    builder.complete(6, 2, 50, b"d" * 32)
    builder.complete(7, 0, 16, b"e" * 32)
    builder.fork(1, [3, 4], 20)
    builder.allocate(Allocate(5, "t", 10))

    assert builder.build() == Step(
        fills=pack_u32([1, 20]),
        seals=(Seal(1, 0, b"a" * 32 + b"b" * 32), Seal(2, 2, b"c" * 32)),
        completed=pack_u32([6, 2, 50, 7, 0, 16]),
        completed_digests=b"d" * 32 + b"e" * 32,
        forks=(Fork(1, pack_u32([3, 4]), 20),),
        extends=pack_u32([1, 48]),
        allocates=(Allocate(5, "t", 10),),
    )


def test_results_are_paired_with_their_items() -> None:
    """Each result is found by what it concerns; a reply with a missing result is refused."""
    step = Step(
        releases=pack_u32([9]),
        swaps=pack_u32([1, 2, 3]),
        fills=pack_u32([1, 20]),
        seals=(Seal(1, 0, bytes(32)),),
        completed=pack_u32([4, 2, 48]),
        completed_digests=bytes(32),
        extends=pack_u32([1, 48, 2, 32]),
        allocates=(Allocate(5, "t", 10),),
    )
    reply = Stepped(
        releases=b"\x01",
        swaps=b"\x00",
        fills=b"\x00",
        seals=(Sealed(0, 1),),
        completed=b"\x02",
        extends=b"\x00\x03",
        blocks=pack_u32([1, 2, 6]),
        shortages=(Shortage(2, 1, "pool", 20),),
        allocates=(Allocated(3, missing=2),),
    )
    paired = results(step, reply)

    assert (paired.releases, paired.fills, paired.swaps) == ({9: 1}, {1: 0}, {(1, 2, 3): 0})
    assert paired.shortages == {2: reply.shortages[0]}
    assert paired.allocates[5].missing == 2
    assert paired.seals == [(step.seals[0], Sealed(0, 1))]
    with pytest.raises(Internal):
        results(step, Stepped())
    with pytest.raises(Internal):
        results(step, replace(reply, extends=b"\x00"))


def test_the_longest_whole_publication_is_matched() -> None:
    """Only a publication the tokens begin with completely counts, the longest first, in entitled domains."""
    short = Publication("short", 1, "public", pack_u32([1, 2]), "ready")
    long = Publication("long", 1, "public", pack_u32([1, 2, 3, 4]), "pending")
    group = Publication("group", 1, "team", pack_u32([1, 2, 3]), "ready")
    known = PublicationList([short, long, group], generation=5)

    assert known.match(pack_u32([1, 2, 3, 4, 5])) == long
    assert known.match(pack_u32([1, 2, 3, 4])) == long
    assert known.match(pack_u32([1, 2, 3, 9])) == short
    assert known.match(pack_u32([1, 2, 3, 9]), domains=("public", "team")) == group
    assert known.match(pack_u32([1])) is None
    assert known.match(pack_u32([2, 1, 2, 3, 4])) is None
    assert PublicationList([Publication("empty", 1, "public", b"", "ready")]).match(pack_u32([1])) is None


def test_requests_over_a_limit_are_refused_before_they_leave() -> None:
    """Frame size, items and table length are checked here, each with the figure in the message."""
    check_body(Extend(1, 8 * 16), LIMITS, 16)
    check_body(Free(pack_u32([1, 2, 3, 4])), LIMITS, 16)
    with pytest.raises(LimitError, match="9 blocks"):
        check_body(Extend(1, 8 * 16 + 1), LIMITS, 16)
    with pytest.raises(LimitError, match="9 blocks"):
        check_body(Step(allocates=(Allocate(1, "t", 5, reserve=129),)), LIMITS, 16)
    with pytest.raises(LimitError, match="5 items"):
        check_body(Free(pack_u32(range(5))), LIMITS, 16)
    with pytest.raises(LimitError, match="1001 bytes"):
        check_frame(bytes(1001), LIMITS)
    assert (
        items(Step(fills=pack_u32([1, 2]), forks=(Fork(1, pack_u32([2, 3]), 0),), extends=pack_u32([1, 2, 3, 4]))) == 5
    )


def test_each_completed_block_has_one_digest() -> None:
    """Rows without a digest, or digests without a row, are refused before anything is read of them."""
    with pytest.raises(ValueError, match="one digest"):
        Step(completed=pack_u32([1, 0, 16]), completed_digests=bytes(64))
