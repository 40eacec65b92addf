"""Shares: bounds hold, tenants take turns, and a request that leaves takes nothing along."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.turns.shares import Shares


def shares(total: int, each: int, most_waiting: int = 100, wait_s: float = 10.0) -> Shares:
    """With bounds that no test reaches unless it says so."""
    return Shares(total, each, most_waiting=most_waiting, wait_s=wait_s)


async def settle() -> None:
    """Let all tasks go on that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def wait_in(it: Shares, order: list[str], tenant: str, amount: int = 1) -> asyncio.Task[None]:
    """A task that notes its tenant when its turn comes."""

    async def wait() -> None:
        await it.acquire(tenant, amount)
        order.append(tenant)

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    return task


def test_tenants_take_turns() -> None:
    """One that has six waiting does not keep another's one behind them."""

    async def run() -> list[str]:
        it, order = shares(1, 1), list[str]()
        await it.acquire("acme", 1)
        for tenant in ("acme", "acme", "acme", "borea", "acme"):
            await wait_in(it, order, tenant)
        for tenant in ("acme", "acme", "borea", "acme", "acme"):
            it.release(tenant, 1)
            await settle()
        return order

    assert asyncio.run(run()) == ["acme", "borea", "acme", "acme", "acme"]


def test_a_large_part_is_not_overtaken_for_ever() -> None:
    """When its turn has come, what is free is kept for it; a tenant at its own bound keeps no other waiting."""

    async def run() -> list[str]:
        it, order = shares(10, 8), list[str]()
        await it.acquire("acme", 8)
        await wait_in(it, order, "acme", 1)
        await wait_in(it, order, "borea", 2)
        await wait_in(it, order, "cairn", 8)
        await wait_in(it, order, "borea", 1)
        seen = [*order]
        it.release("acme", 8)
        await settle()
        it.release("borea", 2)
        await settle()
        return [*seen, "-", *order[1:]]

    first, dash, *later = asyncio.run(run())
    assert (first, dash) == ("borea", "-")
    assert sorted(later[:2]) == ["acme", "cairn"]


def test_too_many_and_too_long_are_refused() -> None:
    """429 beyond what may wait of a tenant, 503 after the time; neither holds anything."""

    async def run() -> list[int]:
        it, codes = shares(1, 1, most_waiting=1, wait_s=0.02), []
        await it.acquire("acme", 1)
        waiting = asyncio.ensure_future(it.acquire("acme", 1))
        await asyncio.sleep(0)
        for attempt in (it.acquire("acme", 1), waiting):
            with pytest.raises(ApiError) as caught:
                await attempt
            codes.append(caught.value.status)
        it.release("acme", 1)
        await it.acquire("borea", 1)
        return codes

    assert asyncio.run(run()) == [429, 503]


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "give", "cancel", "settle"]), st.sampled_from("abc"), st.integers(1, 4))
    )
)
def test_nothing_is_lost_however_waiters_leave(moves: list[tuple[str, str, int]]) -> None:
    """Parts taken, given back and given up in any order, several at one moment: in the end all is free again."""

    async def run() -> None:
        it, tasks, held = shares(6, 4), list[tuple[str, int, asyncio.Task[None]]](), list[tuple[str, int]]()

        def collect() -> None:
            for one in [one for one in tasks if one[2].done()]:
                tasks.remove(one)
                if not one[2].cancelled():
                    held.append(one[:2])

        for move, tenant, amount in moves:
            if move == "take":
                tasks.append((tenant, amount, asyncio.ensure_future(it.acquire(tenant, amount))))
            elif move == "give" and held:
                it.release(*held.pop())
            elif move == "cancel" and tasks:
                tasks[amount % len(tasks)][2].cancel()
            elif move == "settle":
                await settle()
            collect()
            assert sum(amount for _, amount in held) <= 6
        for _ in range(len(tasks) + 1):
            await settle()
            collect()
            while held:
                it.release(*held.pop())
        await settle()
        collect()
        assert not tasks
        for one in held:
            it.release(*one)
        await asyncio.wait_for(asyncio.gather(it.acquire("a", 3), it.acquire("b", 3)), 1)

    asyncio.run(run())
