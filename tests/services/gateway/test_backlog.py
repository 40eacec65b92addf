"""Backlogs: order, joining, the bound that all share, and which tenant pays when it is reached."""

from __future__ import annotations

import asyncio

import pytest

from quire_proto.gateway_link import Output, Sampling, TokenLogprob
from quire_proto.wire.u32 import pack_u32, unpack_u32
from quire_services.gateway import backlog
from quire_services.gateway.backlog import Backlogs
from quire_services.gateway.generations import Arrival, Call, Generation
from quire_services.gateway.http.errors import ApiError, ClientGone, unavailable

SAMPLING = Sampling(max_tokens=100_000)
LOGPROBS = (TokenLogprob(-0.5),)


def generation(backlogs: Backlogs, tenant: str = "acme", n: int = 1) -> Generation:
    """One of a call of its own."""
    return Call(backlogs).add(tenant, [1], SAMPLING, n)


def feed(one: Generation, tokens: range, index: int = 0, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
    """Deliver an output for each token."""
    for token in tokens:
        one.take(Output("request", index, pack_u32([token]), logprobs))


def take(one: Generation) -> list[Arrival]:
    """The next piece."""
    return asyncio.run(one.call.backlog.piece(0))


def read(one: Generation) -> list[list[Arrival]]:
    """All that waits, in the pieces in which it is handed out."""
    return [take(one) for _ in iter(lambda: bool(one.call.backlog), False)]


def tokens(pieces: list[list[Arrival]], index: int = 0) -> list[int]:
    """Of one continuation."""
    return [t for piece in pieces for _, output in piece if output.index == index for t in unpack_u32(output.tokens)]


def test_few_outputs_stay_as_they_came() -> None:
    """Those that came together are handed out together, each by itself."""
    one = generation(Backlogs(), n=2)
    for token in range(3):
        feed(one, range(token, token + 1), 0)
        feed(one, range(token + 10, token + 11), 1)

    ((*piece,),) = read(one)
    assert [(output.index, *unpack_u32(output.tokens)) for _, output in piece] == [
        (0, 0),
        (1, 10),
        (0, 1),
        (1, 11),
        (0, 2),
        (1, 12),
    ]


def test_tokens_of_a_long_backlog_are_joined_and_stay_in_order() -> None:
    """Ten thousand tokens that wait take no more outputs than may lie loose, and the end is the last one's."""
    one = generation(Backlogs(), n=2)
    feed(one, range(10_000), 0)
    feed(one, range(10_000), 1)
    one.take(Output("request", 0, pack_u32([7]), finish="length"))
    size = one.call.backlog.size
    pieces = read(one)

    assert tokens(pieces, 0) == [*range(10_000), 7]
    assert tokens(pieces, 1) == [*range(10_000)]
    assert [output.finish for piece in pieces for _, output in piece if output.index == 0][-1] == "length"
    assert sum(map(len, pieces)) == backlog.MAX_SEPARATE_OUTPUTS + 1
    assert size < 80_004 + (backlog.MAX_SEPARATE_OUTPUTS + 1) * 500
    assert one.call.backlog.size == 0


def test_log_probabilities_keep_their_tokens() -> None:
    """Outputs with them are never joined, and pieces of them are small."""
    one = generation(Backlogs())
    feed(one, range(1000), logprobs=LOGPROBS)
    pieces = read(one)

    assert tokens(pieces) == [*range(1000)]
    assert all(len(output.logprobs) == 1 for piece in pieces for _, output in piece)
    assert max(map(len, pieces)) <= backlog.PIECE_BYTES / 500


def test_the_longest_of_the_tenant_with_most_is_given_up() -> None:
    """Another tenant's single longest answer stays, and so do the tenant's shorter ones."""
    backlogs = Backlogs(1_000_000)
    other, short, long = (generation(backlogs, tenant) for tenant in ("borea", "acme", "acme"))
    feed(other, range(700), logprobs=LOGPROBS)
    feed(short, range(300), logprobs=LOGPROBS)
    feed(long, range(600), logprobs=LOGPROBS)
    feed(short, range(300, 400), logprobs=LOGPROBS)

    with pytest.raises(ApiError) as caught:
        take(long)
    assert (caught.value.code, long.open, long.call.backlog.size) == ("answer_unread", set(), 0)
    assert tokens(read(other)) == [*range(700)]
    assert tokens(read(short)) == [*range(400)]


def test_an_error_comes_after_what_was_sent_before_it() -> None:
    """An engine that fails takes nothing back; a client that hung up needs nothing more; what is closed is empty."""
    failed, gone, closed = (generation(Backlogs()) for _ in range(3))
    for one in (failed, gone, closed):
        feed(one, range(3))
    failed.call.fail(unavailable("gone"))
    gone.call.hang_up()
    closed.call.close()

    assert tokens([take(failed)]) == [0, 1, 2]
    with pytest.raises(ApiError):
        take(failed)
    with pytest.raises(ClientGone):
        take(gone)
    assert not closed.call.backlog


def test_patience_ends_with_nothing() -> None:
    """Silence gives an empty piece, first after the grace and then each time; an output ends it at once."""

    async def wait() -> list[list[Arrival]]:
        one = generation(Backlogs())
        outputs = one.call.outputs(0.01, 0.02)
        silent = [await anext(outputs), await anext(outputs)]
        asyncio.get_running_loop().call_soon(feed, one, range(1))
        return [*silent, await anext(outputs)]

    *silent, last = asyncio.run(wait())
    assert silent == [[], []]
    assert tokens([last]) == [0]
