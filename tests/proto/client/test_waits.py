"""Waiting for another sequence's blocks with both clients, against a real kvstore."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from quire_proto.client import waits
from quire_proto.client.aio import AsyncKVClient
from quire_proto.client.client import KVClient
from quire_proto.messages import CLAIMED, OK, Allocate, Seal, Step, Wait, Waited
from quire_proto.op_table import ALLOCATE
from quire_proto.wire.digests import DIGEST_BYTES
from quire_proto.wire.errors import Claimed, LocalError, QuireError, RemoteError, StaleSession
from quire_proto.wire.u32 import pack_u32
from tests.proto.proxy import Proxy
from tests.support.kvstore import Kvstore
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
PROMPT = pack_u32(range(17))


def own(client: KVClient, tenant: str) -> bytes:
    """Allocate sequence 1 for the prompt; its digests."""
    digests = client.chain(tenant, PROMPT).digests()
    assert client.allocate(sequence=1, tenant=tenant, tokens=17, digests=digests).code == OK
    return digests


def fill_and_seal(client: KVClient, digests: bytes) -> None:
    """The prompt of sequence 1 is computed."""
    assert client.step(Step(fills=pack_u32([1, 17]), seals=(Seal(1, 0, digests),))).fills == bytes([OK])


def ask(client: KVClient, number: int, digests: bytes, tenant: str) -> int:
    """The code of an allocate that may wait."""
    return client.call(ALLOCATE, Allocate(number, tenant, 17, digests, may_wait=1)).code


def test_a_wait_holds_up_nothing(shared_kvstore: Kvstore) -> None:
    """While it waits a session goes on; it is told when the other session seals, or that its time is over."""
    with KVClient(shared_kvstore.run_dir) as owner, KVClient(shared_kvstore.run_dir) as client:
        digests = own(owner, "blocking")
        assert ask(client, 2, digests, "blocking") == CLAIMED
        ended: SimpleQueue[Waited | QuireError] = SimpleQueue()
        client.begin_wait(Wait(2, digests[-DIGEST_BYTES:]), 30, ended.put)
        wait_for(lambda: shared_kvstore.stats().counters["waits"] == 1, "the kvstore defers the reply")
        assert client.allocate(sequence=3, tenant="blocking", tokens=9).code == OK
        assert client.wait(4, digests[:DIGEST_BYTES], timeout=0.1) == Waited("deadline")
        assert ended.empty()
        fill_and_seal(owner, digests)
        assert ended.get(timeout=10) == Waited("sealed")
        assert client.wait(2, digests[-DIGEST_BYTES:]) == Waited("sealed")
        assert ask(client, 2, digests, "blocking") == OK
        with pytest.raises(RemoteError, match="CONFLICT"):
            client.wait(2, digests[-DIGEST_BYTES:])


def test_a_wait_is_awaited_beside_other_calls(shared_kvstore: Kvstore) -> None:
    """The asyncio client's wait ends when the owner leaves: the blocks are this session's to compute."""

    async def main() -> None:
        owner = await asyncio.to_thread(KVClient, shared_kvstore.run_dir)
        async with await AsyncKVClient.connect(shared_kvstore.run_dir, resend=0.2) as client:
            digests = await asyncio.to_thread(own, owner, "async")
            with pytest.raises(Claimed) as told:
                await client.allocate(sequence=2, tenant="async", tokens=17, digests=digests, may_wait=1)
            assert (told.value.code, told.value.claimed) == ("CLAIMED", digests)
            assert await client.wait(3, digests[:DIGEST_BYTES], timeout=0.1) == Waited("deadline")
            waiting = asyncio.ensure_future(client.wait(2, digests[-DIGEST_BYTES:]))
            await asyncio.sleep(0.5)
            assert (await client.stats()).counters["resends"] == 0
            assert not waiting.done()
            await asyncio.to_thread(owner.close)
            assert await waiting == Waited("yours")

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_lost_reply_comes_again(
    shared_kvstore: Kvstore, proxy_to: Callable[[Kvstore], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is said again, and the answer that was lost is given again."""
    monkeypatch.setattr(waits, "RESEND_S", 0.1)
    proxy = proxy_to(shared_kvstore)
    proxy.lose_replies = ["wait"]
    with KVClient(shared_kvstore.run_dir) as owner, KVClient(proxy.run_dir) as client:
        digests = own(owner, "lost")
        fill_and_seal(owner, digests)
        assert client.wait(2, digests[-DIGEST_BYTES:]) == Waited("sealed")
    assert len({frame for op, frame in proxy.seen if op == "wait"}) == 1
    assert len([op for op, _ in proxy.seen if op == "wait"]) == 2


def test_a_refused_wait_is_said_again_when_the_kvstore_said(
    shared_kvstore: Kvstore, proxy_to: Callable[[Kvstore], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BUSY is no answer: the same wait goes out again, long before the resend."""
    monkeypatch.setattr(waits, "RESEND_S", 60.0)
    proxy = proxy_to(shared_kvstore)
    proxy.busy = ["wait"]
    with KVClient(shared_kvstore.run_dir) as owner, KVClient(proxy.run_dir) as client:
        digests = own(owner, "busy")
        fill_and_seal(owner, digests)
        assert client.wait(2, digests[-DIGEST_BYTES:], timeout=50.0) == Waited("sealed")
    frames = [frame for op, frame in proxy.seen if op == "wait"]
    assert (len(frames), len(set(frames))) == (2, 1)


def test_a_wait_ends_with_its_session(start_kvstore: Callable[..., Any]) -> None:
    """A kvstore that dies, or a client that closes, ends every wait with an error; so does one begun too late."""
    kvstore = start_kvstore()
    ended: SimpleQueue[Waited | QuireError] = SimpleQueue()
    with KVClient(kvstore.run_dir) as owner:
        digests = own(owner, "t")
        with KVClient(kvstore.run_dir) as client:
            client.begin_wait(Wait(2, digests[-DIGEST_BYTES:]), 30, ended.put)
            wait_for(lambda: kvstore.stats().counters["waits"] == 1, "the kvstore defers the reply")
        assert isinstance(ended.get(timeout=10), LocalError)
        with KVClient(kvstore.run_dir) as client:
            client.begin_wait(Wait(3, digests[-DIGEST_BYTES:]), 30, ended.put)
            wait_for(lambda: kvstore.stats().counters["waits"] == 2, "the kvstore defers the reply")
            kvstore.kill()
            assert isinstance(ended.get(timeout=10), StaleSession)
            with pytest.raises(StaleSession):
                client.wait(4, digests[-DIGEST_BYTES:])
