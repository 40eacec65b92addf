"""What the admin port tells of the pool: the kvstore's own numbers, to the operator alone, while they change."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import httpx
import pytest

from quire_kv import unpack_u32
from quire_services.gateway.dashboard.pool_feed import MOST_VIEWERS
from tests.support.children import holding_client
from tests.support.waits import wait_for

from .conftest import BLOCKS, Planted

pytestmark = pytest.mark.process
STATES = ("free", "held", "cached", "quarantined")


def cells(event: dict[str, Any], picture: list[int] | None = None) -> list[int]:
    """The picture after an event."""
    new = list(unpack_u32(base64.b64decode(event["cells"])))
    blocks = unpack_u32(base64.b64decode(event["blocks"]))
    if not blocks:
        return new or picture or []
    assert picture is not None
    for block, cell in zip(blocks, new, strict=True):
        picture[block] = cell
    return picture


@contextmanager
def live(planted: Planted) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """The stream of a viewer, as names and data."""

    def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
        name = ""
        for line in answer.iter_lines():
            kind, _, text = line.partition(": ")
            if kind == "event":
                name = text
            elif kind == "data":
                yield name, json.loads(text)

    with planted.http.stream("GET", "/admin/live") as answer:
        assert answer.status_code == 200, answer.read()
        yield events(answer)


def sessions(planted: Planted) -> int:
    """How many the overview has; none, while the kvstore has not answered in time."""
    kvstore = planted.http.get("/admin/overview").json()["kvstore"]
    return len(kvstore["sessions"]) if kvstore else 0


def test_the_pool_is_what_the_kvstore_says(planted: Planted) -> None:
    """Blocks by state and by account, counted from the cells, are those of ``stats`` and ``tenants``."""
    pool = planted.http.get("/admin/pool").json()
    with planted.reader() as reader:
        stats, tenants = reader.stats(), reader.tenants().tenants
    picture = cells(pool)

    states = Counter(STATES[cell & 3] for cell in picture)
    assert len(picture) == pool["num_blocks"] == BLOCKS
    assert {name: states[name] for name in STATES} == pool["blocks_by_state"]
    assert pool["blocks_by_state"] | {"total": BLOCKS} == stats.blocks
    owned = Counter((pool["accounts"][(cell >> 16) - 1], STATES[cell & 3]) for cell in picture if cell >> 16)
    for one in tenants:
        if one.tenant != "(quarantine)":
            assert (owned[one.tenant, "held"], owned[one.tenant, "cached"]) == (one.held, one.cached), one.tenant
    shared = [block for block, cell in enumerate(picture) if (cell >> 8) & 255 == 3]
    assert len(shared) == 5, "three sequences of one prompt"
    assert sum(bool(cell & 16) for cell in picture) == 3, "the publication"
    assert sum(bool(cell & 8) for cell in picture) == 4, "the claim"
    block = planted.http.get(f"/admin/pool/blocks/{shared[0]}").json()
    assert [(one["session"], one["sequence"], one["tenant"]) for one in block["holders"]] == [
        ("engine-1", number, "acme") for number in (1, 2, 3)
    ]
    with planted.reader() as reader:
        assert {**asdict(reader.block(shared[0])), "holders": 3} | {"publications": []} == {
            key: value for key, value in block.items() if key != "object"
        } | {"holders": len(block["holders"])}


def test_the_overview_is_what_the_processes_say(planted: Planted) -> None:
    """Sessions, counters, tenants with their quotas and engines, each as its own process has it."""
    with planted.reader() as reader:
        reader.quota("globex", limit=20, guarantee=5)
        stats, tenants = reader.stats(brief=True), reader.tenants().tenants

    def now() -> dict[str, Any] | None:
        found = planted.http.get("/admin/overview").json()
        kvstore = found["kvstore"]  # None, where it has not answered in time
        rows = {row["tenant"]: row for row in kvstore["tenants"]} if kvstore else {}
        as_asked = rows == {one.tenant: asdict(one) for one in tenants} and kvstore["blocks"] == stats.blocks
        return found if as_asked else None

    found = wait_for(now, "answers are no older than a quarter of a second")
    kvstore = found["kvstore"]
    assert {name: stats.counters[name] for name in ("prompt_tokens", "hit_tokens", "publication_tokens")} == {
        name: kvstore["counters"][name] for name in ("prompt_tokens", "hit_tokens", "publication_tokens")
    }
    assert [(one["name"], one["sequences"]) for one in kvstore["sessions"]] == [("engine-1", 5)]
    assert [one["name"] for one in found["engines"]] == ["engine-1"]
    assert set(found["latencies"]["engine-1"]) == {
        "since", "pid", "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
    }  # fmt: skip


def test_the_stream_follows_the_pool(planted: Planted) -> None:
    """The whole picture first, then changes; applied, they are what the kvstore has; an overview comes beside them."""
    with live(planted) as events:
        picture: list[int] = []
        names = set[str]()
        while not picture or names < {"pool", "overview"}:
            name, event = next(events)
            names.add(name)
            picture = cells(event, picture) if name == "pool" else picture
        planted.first.allocate(100, "acme", 33)
        name, event = next((name, event) for name, event in events if name == "pool")
        assert len(base64.b64decode(event["blocks"])) == 4 * 9
        picture = cells(event, picture)
    assert picture == cells(planted.http.get("/admin/pool").json())
    planted.first.free([100])


def test_a_death_is_told_with_what_it_did(planted: Planted) -> None:
    """The session is fenced or gone, its references come back, and the lines say so."""
    before = len(planted.http.get("/admin/overview").json()["happened"])
    with holding_client(planted.gateway.run_dir):
        wait_for(lambda: sessions(planted) == 2, "it is there")

    def told() -> str:
        lines = planted.http.get("/admin/overview").json()["happened"][before:]
        return " ".join(line["text"] for line in lines)

    wait_for(lambda: "10 references to blocks came back" in told(), f"the death is told: {told()}")


def test_an_engine_that_is_gone_is_a_death_until_it_is_back(planted: Planted) -> None:
    """Name, process and what it carried; one of its name that is ready again ends the account."""
    peer = planted.gateway.engine("engine-2")
    wait_for(lambda: "engine-2" in str(planted.http.get("/admin/overview").json()["happened"]), "it came")
    peer.close()

    def death() -> dict[str, Any]:
        found = [one for one in planted.http.get("/admin/overview").json()["deaths"] if one["engine"] == "engine-2"]
        return found[0] if found else {}

    wait_for(death, "its death is told")
    assert (death()["pid"], death()["continuations"], death()["back_at"]) == (os.getpid(), 0, 0.0)

    def told() -> int:
        return str(planted.http.get("/admin/overview").json()["happened"]).count("10 references to blocks came back")

    ended = told()
    with holding_client(planted.gateway.run_dir):
        wait_for(lambda: sessions(planted) == 2, "another came")
    wait_for(lambda: told() > ended, "and ended")
    assert (death()["references"], death()["reclaimed_at"]) == (0, 0.0), "it had no session"
    again = planted.gateway.engine("engine-2")
    wait_for(lambda: death()["back_at"] > death()["at"], "it is back")
    again.close()


def test_only_the_operator_sees_it(planted: Planted) -> None:
    """The page itself is no secret, and has none in it; everything else needs the token in a header."""
    with httpx.Client(base_url=planted.url, trust_env=False, timeout=20) as stranger:
        for path in ("/admin/pool", "/admin/pool/blocks/0", "/admin/overview", "/admin/live"):
            assert stranger.get(path).status_code == 401, path
            assert stranger.get(path, params={"token": planted.token}).status_code == 401, path
            assert stranger.get(path, headers={"cookie": f"authorization={planted.token}"}).status_code == 401, path
        for path in ("/", "/dashboard.js", "/pool.js", "/dashboard.css"):
            answer = stranger.get(path)
            assert answer.status_code == 200
            assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert planted.token not in answer.text
    for path in ("/admin/pool", "/", "/dashboard.js"):
        assert planted.gateway.http.get(path).status_code == 404, "not on the port of tenants"
    assert planted.token not in planted.gateway.log.read_text()


def test_wrong_questions_are_answered(planted: Planted) -> None:
    """A block that is none, a word that is no number, and one dashboard too many."""
    assert planted.http.get(f"/admin/pool/blocks/{BLOCKS}").status_code == 400
    assert planted.http.get("/admin/pool/blocks/x").status_code == 400

    def open_ones(left: int) -> None:
        if left == 0:
            answer = planted.http.get("/admin/live")
            assert (answer.status_code, "open already" in answer.text) == (503, True)
            return
        with live(planted) as events:
            next(events)
            open_ones(left - 1)

    open_ones(MOST_VIEWERS)

    def opens() -> bool:
        with planted.http.stream("GET", "/admin/live") as answer:
            return answer.status_code == 200

    wait_for(opens, "those that left make room")


def test_a_kvstore_that_is_gone_is_said(planted: Planted) -> None:
    """A viewer is told that none answers, then has the new one's whole picture."""
    with live(planted) as events:
        while next(events)[0] != "pool":
            pass
        planted.kvstore.kill()
        assert next(event for name, event in events if name == "away") == {"reason": "no kvstore answers"}
        assert planted.http.get("/admin/pool").status_code == 503
        planted.kvstore.start()
        picture = cells(next(event for name, event in events if name == "pool"))
    assert picture == [0] * BLOCKS
