"""The response store: what is kept is bounded in number, bytes and time, and a tenant's own."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.response_api.item_page import SLICE_BYTES, item_page
from quire_services.gateway.openai.response_api.response_lookup import MAX_ITEMS, MAX_REFERENCES, TooLong, looked_up
from quire_services.gateway.openai.response_api.response_store import ENTRY_BYTES, ResponseStore

WHOLE = b"{}"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def keep(store: ResponseStore, tenant: str, name: str, previous: str = "", size: int = 10) -> None:
    """A response with an input of so many bytes."""
    store.open(tenant, name, b"x" * size, 1, previous)
    store.complete(tenant, name, WHOLE, {f"{name}-answer": b"y"})


def kept(store: ResponseStore, tenant: str, *names: str) -> list[bool]:
    """Which of them are there, without using them."""
    return [store._find(tenant, name) is not None for name in names]


def test_the_least_recently_used_goes_first() -> None:
    """Of a tenant's own, and who goes on from a response uses all before it."""
    store = ResponseStore(3, 1 << 20, 100)
    for name in ("a", "b", "c"):
        keep(store, "t", name, "a" if name == "b" else "")
    store.conversation("t", "b")
    keep(store, "t", "d")
    assert kept(store, "t", "a", "b", "c", "d") == [True, True, False, True]
    keep(store, "u", "a")
    assert kept(store, "t", "a", "b", "d") == [True, True, True]


def test_bytes_are_taken_from_who_has_most() -> None:
    """A tenant that keeps much gives up its own; the other's stay."""
    store = ResponseStore(1000, 100 * ENTRY_BYTES, 100)
    keep(store, "small", "a", size=ENTRY_BYTES)
    for number in range(200):
        keep(store, "large", str(number), size=5 * ENTRY_BYTES)
    assert kept(store, "small", "a") == [True]
    assert sum(kept(store, "large", *map(str, range(200)))) in range(12, 17)
    assert kept(store, "large", "199") == [True]
    assert store._sizes.total() <= 100 * ENTRY_BYTES
    assert not store.takes(100 * ENTRY_BYTES)
    assert store.takes(99 * ENTRY_BYTES)


def test_open_requests_count_and_are_not_seen() -> None:
    """What they hold is bounded, too; one that has lost its place is not kept when it is answered."""
    store = ResponseStore(1000, 20 * ENTRY_BYTES, 100)
    for number in range(20):
        store.open("t", str(number), b"x" * 5 * ENTRY_BYTES, 1, "")
    assert store._sizes.total() <= 20 * ENTRY_BYTES
    with pytest.raises(ApiError) as missing:
        store.get("t", "19")
    assert missing.value.status == 404
    store.complete("t", "0", WHOLE, {})
    store.complete("t", "19", WHOLE, {})
    assert kept(store, "t", "0", "19") == [False, True]


def test_what_is_not_used_is_forgotten() -> None:
    """At once for those who ask, and with all its bytes at the next sweep."""
    clock = Clock()
    store = ResponseStore(10, 1 << 20, 60, clock)
    keep(store, "t", "a")
    keep(store, "t", "b", "a")
    keep(store, "t", "c")
    clock.now = 50
    assert [entry.id for entry in store.conversation("t", "b")] == ["a", "b"]
    clock.now = 100
    assert kept(store, "t", "a", "b", "c") == [True, True, False]
    store.sweep()
    clock.now = 200
    with pytest.raises(ApiError, match="not kept"):
        store.conversation("t", "b")
    store.sweep()
    with pytest.raises(ApiError, match="not kept"):
        store.item("t", "b-answer")
    assert (store._sizes.total(), store._tenants, store._items) == (0, {}, {})


def test_a_conversation_without_its_beginning_does_not_go_on() -> None:
    """The response that is missing is named."""
    store = ResponseStore(10, 1 << 20, 60)
    keep(store, "t", "a")
    keep(store, "t", "b", "a")
    assert store.input_texts("t", "b") == [b"x" * 10, b"y", b"x" * 10]
    assert looked_up(store, "t", lambda: 100, None, "b", ["a-answer"]) == b"\n".join([b"x" * 10, b"y"] * 2 + [b"y"])
    store.delete("t", "a")
    with pytest.raises(ApiError, match="'a', which 'b' goes on from"):
        store.conversation("t", "b")
    with pytest.raises(ApiError):
        store.item("t", "a-answer")


def test_what_is_looked_up_is_bounded() -> None:
    """In items, references and bytes; what is too long for here may be read elsewhere."""
    store = ResponseStore(10, 1 << 20, 60)
    keep(store, "t", "a", size=1000)

    def lookup(here: int | None, most: int, *references: str, previous: str = "a") -> bytes:
        return looked_up(store, "t", lambda: most, here, previous, list(references))

    assert len(lookup(None, 2000)) == 1002
    with pytest.raises(TooLong):
        lookup(100, 2000)
    with pytest.raises(ApiError) as refused:
        lookup(100, 1000)
    assert refused.value.status == 413
    with pytest.raises(ApiError, match="references"):
        lookup(None, 2000, *["a-answer"] * (MAX_REFERENCES + 1))
    store.open("t", "b", b"{}", MAX_ITEMS, "a")
    store.complete("t", "b", WHOLE, {})
    with pytest.raises(ApiError, match="items"):
        lookup(None, 2000, previous="b")


def page_of(texts: list[bytes], after: str, limit: int, newest_first: bool) -> dict[str, Any]:
    page: dict[str, Any] = json.loads(asyncio.run(item_page(texts, after, limit, newest_first=newest_first)))
    return page


def test_an_item_is_found_wherever_the_slices_end() -> None:
    """Its mark may lie across two of them."""
    for shift in range(-20, 20):
        text = b'{"id":"a","x":"' + b"y" * (SLICE_BYTES + shift - 20) + b'"}\n{"id":"b","x":1}\n{"id":"c","x":1}'
        assert [item["id"] for item in page_of([text], "b", 5, False)["data"]] == ["c"]


def test_pages_of_items_are_the_items_in_order() -> None:
    """Whatever the page's size, from either end, however the items lie in texts."""
    rng = random.Random(5)
    for _ in range(50):
        texts = [[{"id": f"{t}-{n}", "x": "a\nb"} for n in range(rng.randint(1, 4))] for t in range(rng.randint(1, 4))]
        every = [item for text in texts for item in text]
        written = [b"\n".join(json.dumps(i, separators=(",", ":")).encode() for i in text) for text in texts]
        for newest_first in (False, True):
            found: list[dict[str, str]] = []
            limit, more = rng.randint(1, 5), True
            while more:
                after = found[-1]["id"] if found else ""
                page = page_of(written, after, limit, newest_first)
                assert len(page["data"]) <= limit
                assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
                found += page["data"]
                more = page["has_more"]
            assert found == (every[::-1] if newest_first else every)
        assert page_of(written, every[-1]["id"], 1, False)["data"] == []
    with pytest.raises(ApiError, match="'after'"):
        page_of(written, "nowhere", 1, False)
