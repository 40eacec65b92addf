"""AsyncKVClient against a real kvstore, under uvloop and under asyncio's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from quire_proto.client.aio import AsyncKVClient
from quire_proto.messages import OK
from quire_proto.wire.envelope import decode_request
from quire_proto.wire.errors import KvstoreUnreachable, LimitError, LocalError, StaleSession
from quire_proto.wire.u32 import pack_u32, unpack_u32
from tests.proto.proxy import Proxy
from tests.support.kvstore import Kvstore
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
ProxyTo = Callable[[Kvstore], Proxy]
Start = Callable[..., Kvstore]
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on one of the loops."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.wait_for(main, 30))

    return runner


def test_the_same_methods_are_awaited(shared_kvstore: Kvstore, run: Run) -> None:
    """A session comes, works and goes, like the blocking client's."""

    async def main() -> None:
        async with await AsyncKVClient.connect(shared_kvstore.run_dir, name="async") as client:
            chain = await client.chain("async", pack_u32(range(9)))
            reply = await client.allocate(sequence=1, tenant="async", tokens=9, digests=chain.digests())
            assert (reply.code, len(unpack_u32(reply.blocks))) == (OK, 3)
            assert [s.name for s in (await client.stats()).sessions] == ["async"]
            client.map()[:2] = b"ok"
            await client.refresh_publications()
            assert (await client.detach()).references == 3
        with pytest.raises(LocalError, match="closed"):
            await client.stats()

    run(main())
    assert shared_kvstore.stats().sessions == ()


def test_calls_are_pipelined_within_the_window(shared_kvstore: Kvstore, proxy_to: ProxyTo, run: Run) -> None:
    """Ordered calls of many tasks travel together, in order, and never more than a window ahead of the oldest."""
    proxy = proxy_to(shared_kvstore)

    async def main() -> None:
        async with await AsyncKVClient.connect(proxy.run_dir, resend=0.3) as client:
            proxy.lose_replies.append("allocate")  # the first: everything behind it fills the window and waits
            calls = [client.allocate(sequence=n, tenant="a", tokens=1) for n in range(20)]
            replies = asyncio.gather(*calls)
            await asyncio.to_thread(wait_for, lambda: len(allocates(proxy)) == 8, "a full window was sent")
            stats = await client.stats()  # unordered: not held up by the full window
            assert stats.counters["allocates"] >= 8
            assert len(allocates(proxy)) == 8
            assert [reply.code for reply in await replies] == [OK] * 20

    run(main())
    numbers = [decode_request(frame).number for frame in allocates(proxy)]
    assert sorted(set(numbers)) == list(range(2, 22))
    assert numbers[:8] == list(range(2, 10))


def test_lost_requests_are_repaired_in_order(shared_kvstore: Kvstore, proxy_to: ProxyTo, run: Run) -> None:
    """A gap makes the kvstore refuse what follows; the resend fills it and everything is applied once."""
    proxy = proxy_to(shared_kvstore)
    before = shared_kvstore.stats().counters["allocates"]

    async def main() -> None:
        async with await AsyncKVClient.connect(proxy.run_dir, resend=0.2) as client:
            proxy.lose_requests.append("allocate")
            calls = [client.allocate(sequence=n, tenant="a", tokens=1) for n in range(6)]
            assert [reply.code for reply in await asyncio.gather(*calls)] == [OK] * 6

    run(main())
    assert shared_kvstore.stats().counters["allocates"] - before == 6


def test_busy_replies_are_honoured_in_order(shared_kvstore: Kvstore, proxy_to: ProxyTo, run: Run) -> None:
    """What was refused and what stood behind it go out again when the kvstore said, on the same connection."""
    proxy = proxy_to(shared_kvstore)
    before = shared_kvstore.stats().counters["allocates"]

    async def main() -> None:
        async with await AsyncKVClient.connect(proxy.run_dir, timeout=20.0, resend=20.0) as client:
            proxy.busy = ["allocate", "allocate", "stats"]
            calls = [client.allocate(sequence=n, tenant="a", tokens=1) for n in range(6)]
            assert (await client.stats()).num_blocks
            assert [reply.code for reply in await asyncio.gather(*calls)] == [OK] * 6

    run(main())
    assert shared_kvstore.stats().counters["allocates"] - before == 6


def test_a_cancelled_call_leaves_no_gap(shared_kvstore: Kvstore, proxy_to: ProxyTo, run: Run) -> None:
    """The task stops waiting; its request is still resent, so that later numbers are in order."""
    proxy = proxy_to(shared_kvstore)

    async def main() -> None:
        async with await AsyncKVClient.connect(proxy.run_dir, resend=0.2) as client:
            proxy.lose_requests.append("allocate")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.allocate(sequence=1, tenant="a", tokens=1), 0.05)
            assert (await client.extend(sequence=1, tokens=8)).code == OK

    run(main())


def test_errors_are_those_of_the_blocking_client(shared_kvstore: Kvstore, proxy_to: ProxyTo, run: Run) -> None:
    """Limits before sending, no reply in time, and the loss of the session."""
    proxy = proxy_to(shared_kvstore)

    async def main() -> None:
        async with await AsyncKVClient.connect(proxy.run_dir, timeout=0.5, resend=0.2) as client:
            with pytest.raises(LimitError):
                await client.free(range(client.limits.items + 1))
            proxy.lose_requests += ["stats"] * 3
            with pytest.raises(KvstoreUnreachable, match="stats"):
                await client.stats()
            proxy.lose_replies.append("allocate*")
            with pytest.raises(KvstoreUnreachable, match="allocate"):
                await client.allocate(sequence=1, tenant="a", tokens=1)
            assert client.lost.is_set()

    run(main())
    assert shared_kvstore.stats().sessions == ()


def test_a_killed_kvstore_ends_waiting_calls_at_once(start_kvstore: Start, proxy_to: ProxyTo, run: Run) -> None:
    """Calls in flight raise StaleSession as soon as the side socket ends, not at their timeout."""
    kvstore = start_kvstore()
    proxy = proxy_to(kvstore)

    async def main() -> None:
        client = await AsyncKVClient.connect(proxy.run_dir, timeout=25)
        proxy.lose_replies.append("allocate*")
        waiting = asyncio.create_task(client.allocate(sequence=1, tenant="a", tokens=1))
        await asyncio.to_thread(wait_for, lambda: bool(allocates(proxy)), "the request was sent")
        kvstore.kill()
        with pytest.raises(StaleSession):
            await waiting
        await client.close()

    run(main())


def allocates(proxy: Proxy) -> list[bytes]:
    """Frames of the allocates that the proxy has seen."""
    return [frame for op, frame in list(proxy.seen) if op == "allocate"]
