"""Which nodes get requests: those that serve and are well; what is open at the others goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from quire_services.cluster.entrance import EntranceNode, members
from quire_services.cluster.entrance.node_list import NodeListError, parse_node_list
from tests.support.entrance import Asked, WrittenNode, running_entrance
from tests.support.http_server import served
from tests.support.waits import wait_for

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": []}


async def answers(asked: Asked) -> None:
    """200."""
    await asked.whole(200, b"{}")


def test_a_draining_node_gets_nothing_new_and_its_streams_end_in_order(tmp_path: Path) -> None:
    """A stream that is open when its node drains comes to its own end, also after the node has left the list."""
    go = threading.Event()

    async def streams(asked: Asked) -> None:
        await asked.head()
        await asked.piece(b"data: 1\n\n")
        await asyncio.to_thread(go.wait, 20)
        await asked.piece(b"data: 2\n\n", more=False)

    left, right = WrittenNode(streams), WrittenNode(answers)
    with served(left) as left_port, served(right) as right_port:
        a, b = EntranceNode("a", f"http://127.0.0.1:{left_port}"), EntranceNode("b", f"http://127.0.0.1:{right_port}")
        with running_entrance(tmp_path, a) as entrance, entrance.http.stream("POST", CHAT, json=BODY) as open_:
            pieces = open_.iter_raw()
            next(pieces)
            entrance.declare(EntranceNode("a", a.url, "draining"), b)
            assert entrance.states() == {"a": "draining", "b": "serving"}
            for _ in range(4):
                assert entrance.http.post(CHAT, json=BODY).content == b"{}"
            entrance.declare(b)
            assert entrance.http.post(CHAT, json=BODY).content == b"{}"
            go.set()
            assert b"".join(pieces) == b"data: 2\n\n"
    assert (left.served(CHAT), right.served(CHAT)) == (1, 5)


def test_a_node_that_is_not_well_gets_nothing_until_it_is(tmp_path: Path) -> None:
    """Its own /health decides, asked every second."""
    left, right = WrittenNode(answers), WrittenNode(answers)
    with served(left) as left_port, served(right) as right_port:
        nodes = [EntranceNode(name, f"http://127.0.0.1:{port}") for name, port in (("a", left_port), ("b", right_port))]
        with running_entrance(tmp_path, *nodes) as entrance:
            left.health = 503
            wait_for(lambda: entrance.states() == {"a": "away", "b": "serving"}, "the node is away")
            for _ in range(4):
                entrance.http.post(CHAT, json=BODY)
            assert (left.served(CHAT), right.served(CHAT)) == (0, 4)
            left.health = 200
            wait_for(lambda: entrance.states()["a"] == "serving", "the node is back")
            for _ in range(4):
                entrance.http.post(CHAT, json=BODY)
            assert left.served(CHAT) == 2


def test_what_is_open_at_a_silent_node_goes_on_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is switched off closes no connection: its node is lost when its health was silent long enough."""
    monkeypatch.setattr(members, "LOST_S", 0.5)
    monkeypatch.setattr(members, "HEALTH_WAIT_S", 0.3)
    silent = threading.Event()

    async def hangs(asked: Asked) -> None:
        silent.set()
        await asyncio.sleep(8)

    class Silent(WrittenNode):
        async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
            if scope["path"] == "/health" and silent.is_set():
                await asyncio.sleep(2)
            await super().__call__(scope, receive, send)

    right = WrittenNode(answers)
    with served(Silent(hangs)) as left_port, served(right) as right_port:
        a, b = EntranceNode("a", f"http://127.0.0.1:{left_port}"), EntranceNode("b", f"http://127.0.0.1:{right_port}")
        with running_entrance(tmp_path, a, EntranceNode("b", b.url, "draining")) as entrance:
            found: list[bytes] = []
            asking = threading.Thread(
                target=lambda: found.append(entrance.http.post(CHAT, json=BODY).content), daemon=True
            )
            asking.start()
            assert silent.wait(20)
            entrance.declare(a, b)
            asking.join(20)
    assert found == [b"{}"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[]", "no list of nodes"),
        ('{"nodes": [{"name": "a"}]}', "url"),
        ('{"nodes": [{"url": "ftp://a:1"}]}', "http://HOST:PORT"),
        ('{"nodes": [{"url": "http://a:1/v1"}]}', "without a path"),
        ('{"nodes": [{"url": "http://a:1", "state": "off"}]}', "no state"),
        ('{"nodes": [{"url": "http://a:1"}, {"url": "http://a:1"}]}', "there twice"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_the_reason(text: str, word: str) -> None:
    """Each mistake by its name."""
    with pytest.raises(NodeListError, match=word):
        parse_node_list(text)


def test_a_list_names_its_nodes() -> None:
    """By name, else by address."""
    nodes = parse_node_list(
        '{"nodes": [{"url": "http://a:1/"}, {"name": "n", "url": "http://b", "state": "draining"}]}'
    )
    assert nodes == [EntranceNode("a:1", "http://a:1"), EntranceNode("n", "http://b:80", "draining")]
