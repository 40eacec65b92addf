"""What passes an entrance: bytes unchanged, and what a client is told when nodes are gone under its request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quire_services.cluster.entrance import EntranceNode
from tests.support.entrance import Asked, RunningEntrance, WrittenNode, running_entrance
from tests.support.http_server import served
from tests.support.ports import free_port
from tests.support.waits import wait_for

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
BODY = {"model": "m", "messages": [{"role": "user", "content": "ü"}]}


async def says_hello(asked: Asked) -> None:
    """A stream of two events and a comment."""
    await asked.head()
    for piece in (b": ping\n\n", b'data: {"text": "hel"}\n\n', b'data: {"text": "lo"}\n\n'):
        await asked.piece(piece)
    await asked.piece(b"", more=False)


HELLO = b': ping\n\ndata: {"text": "hel"}\n\ndata: {"text": "lo"}\n\n'


async def dies_in_a_whole_answer(asked: Asked) -> None:
    """Half of a body comes."""
    await asked.head([(b"content-type", b"application/json"), (b"content-length", b"100")])
    await asked.piece(b'{"half": ')
    asked.die()


async def dies_before_an_event(asked: Asked) -> None:
    """A comment comes."""
    await asked.head()
    await asked.piece(b": ping\n\n")
    asked.die()


async def dies_in_an_event(asked: Asked) -> None:
    """An event comes, and half of another."""
    await asked.head()
    await asked.piece(b'data: {"text": "hel"}\n\n')
    await asked.piece(b'data: {"te')
    asked.die()


@contextmanager
def behind(tmp: Path, *nodes: WrittenNode) -> Iterator[RunningEntrance]:
    """An entrance in front of these, named 0, 1, ..."""
    with ExitStack() as stack:
        urls = [f"http://127.0.0.1:{stack.enter_context(served(node))}" for node in nodes]
        listed = [EntranceNode(str(number), url) for number, url in enumerate(urls)]
        yield stack.enter_context(running_entrance(tmp, *listed))


def test_a_request_and_its_answer_pass_unchanged(tmp_path: Path) -> None:
    """Path, query, key, headers and body of the one, status, headers and bytes of the other."""

    async def refuses(asked: Asked) -> None:
        await asked.whole(429, b'{"error":  1}', [(b"retry-after", b"7"), (b"x-quire-engine", b"e")])

    node = WrittenNode(refuses)
    with behind(tmp_path, node) as entrance:
        body = json.dumps(BODY, ensure_ascii=False).encode()
        headers = {
            "authorization": "Bearer sk-1",
            "x-request-id": "mine",
            "x-own": "1",
            "content-type": "application/json",
        }
        answer = entrance.http.post(f"{CHAT}?a=%20b", content=body, headers=headers)

    (asked,) = node.asked
    assert (asked.body, asked.query, asked.path) == (body, b"a=%20b", CHAT)
    assert headers.items() <= asked.headers.items()
    assert (answer.status_code, answer.content) == (429, b'{"error":  1}')
    assert (answer.headers["retry-after"], answer.headers["x-quire-engine"]) == ("7", "e")
    assert len(answer.headers.get_list("date")) == 1


def test_a_stream_passes_as_it_comes(tmp_path: Path) -> None:
    """The first event is there before the second is made, and comments stay."""
    go = threading.Event()

    async def waits(asked: Asked) -> None:
        import asyncio

        await asked.head()
        await asked.piece(b": ping\n\ndata: 1\n\n")
        await asyncio.to_thread(go.wait, 20)
        await asked.piece(b"data: 2\n\n", more=False)

    with behind(tmp_path, WrittenNode(waits)) as entrance, entrance.http.stream("POST", CHAT, json=BODY) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b": ping\n\ndata: 1\n\n"
        go.set()
        assert b"".join(pieces) == b"data: 2\n\n"


@pytest.mark.parametrize("failing", [dies_in_a_whole_answer, dies_before_an_event])
def test_a_request_goes_on_at_another_node_while_nothing_of_it_was_answered(failing: object, tmp_path: Path) -> None:
    """Half of a whole answer and a stream with comments alone are nothing."""
    nodes = (WrittenNode(failing), WrittenNode(failing), WrittenNode(says_hello))  # type: ignore[arg-type]
    with behind(tmp_path, *nodes) as entrance:
        answer = entrance.http.post(CHAT, json=BODY)

    assert answer.status_code == 200
    assert answer.content.removeprefix(b": ping\n\n" * 2).endswith(HELLO.removeprefix(b": ping\n\n"))
    ids = {asked.headers["x-request-id"] for node in nodes for asked in node.asked}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("path", "event", "code"),
    [
        (CHAT, b"\n\ndata: ", ["error", "code"]),
        (MESSAGES, b"\n\nevent: error\ndata: ", ["error", "details", "error_code"]),
        (RESPONSES, b"\n\nevent: error\ndata: ", ["code"]),
    ],
)
def test_a_stream_that_has_begun_ends_with_an_error_event(
    path: str, event: bytes, code: list[str], tmp_path: Path
) -> None:
    """In the words of its API, behind all that came; no node is asked again, for it would begin anew."""
    nodes = (WrittenNode(dies_in_an_event), WrittenNode(dies_in_an_event))
    with behind(tmp_path, *nodes) as entrance:
        answer = entrance.http.post(path, json=BODY)

    came = b'data: {"text": "hel"}\n\ndata: {"te'
    assert answer.content.startswith(came + event)
    said = json.loads(answer.content.removeprefix(came + event))
    for name in code:
        said = said[name]
    assert said == "node_lost"
    assert sum(len(node.asked) for node in nodes) == 1


def test_a_node_that_cannot_serve_is_passed_over(tmp_path: Path) -> None:
    """503 goes to the client only if every node says so, as the last one said it."""

    async def unable(asked: Asked) -> None:
        await asked.whole(503, b'{"error": "loading"}', [(b"retry-after", b"9")])

    able = WrittenNode(says_hello)
    with behind(tmp_path, WrittenNode(unable), able) as entrance:
        assert {entrance.http.post(CHAT, json=BODY).status_code for _ in range(4)} == {200}
        able.answer = unable
        answer = entrance.http.post(CHAT, json=BODY)
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (503, b'{"error": "loading"}', "9")


def test_a_node_that_does_not_listen_is_passed_over(tmp_path: Path) -> None:
    """A refused connection costs no request, whether or not its health was asked since."""
    gone, able = EntranceNode("gone", f"http://127.0.0.1:{free_port()}"), WrittenNode(says_hello)
    with (
        served(able) as port,
        running_entrance(tmp_path, gone, EntranceNode("able", f"http://127.0.0.1:{port}")) as entrance,
    ):
        assert {entrance.http.post(CHAT, json=BODY).content for _ in range(4)} == {HELLO}


def test_without_any_node_the_answer_says_when_to_come_back(tmp_path: Path) -> None:
    """503 in the API's own shape, with Retry-After and the client's request id; health says 503, too."""
    with running_entrance(tmp_path) as entrance:
        answer = entrance.http.post(CHAT, json=BODY, headers={"x-request-id": "mine"})
        message = entrance.http.post(MESSAGES, json=BODY)
        assert entrance.http.get("/health").status_code == 503

    assert (answer.status_code, answer.headers["retry-after"], answer.headers["x-request-id"]) == (503, "5", "mine")
    assert answer.json()["error"]["code"] == "service_unavailable"
    assert message.json()["error"]["type"] == "overloaded_error"


def test_a_client_that_hangs_up_is_noticed_at_the_node(tmp_path: Path) -> None:
    """The connection to the node ends with the client's, so that nothing is computed for it."""

    async def sends_for_long(asked: Asked) -> None:
        import asyncio

        await asked.head()
        for _ in range(200):
            await asked.piece(b"data: 1\n\n")
            await asyncio.sleep(0.02)

    with behind(tmp_path, WrittenNode(sends_for_long)) as entrance:
        with entrance.http.stream("POST", CHAT, json=BODY) as answer:
            chunks = answer.iter_raw()  # httpx closes the connection when nobody holds it any more
            next(chunks)
            assert entrance.http.get("/health").json()["nodes"]["0"]["open"] == 1
        wait_for(lambda: entrance.http.get("/health").json()["nodes"]["0"]["open"] == 0, "the request is over")


def test_what_nodes_tell_routers_does_not_pass(tmp_path: Path) -> None:
    """Metrics, sources of events and the admin API are for networks that the nodes trust: the entrance is in them."""
    node = WrittenNode(says_hello)
    with behind(tmp_path, node) as entrance:
        for path in (
            "/metrics",
            "/load",
            "/kv_event_sources",
            "/get_server_info",
            "/admin/engines",
            "/v1x",
            "//v1/models",
        ):
            assert entrance.http.get(path).status_code == 404, path
    assert node.asked == []


def test_a_kept_response_is_asked_of_the_node_that_has_it(tmp_path: Path) -> None:
    """By its id in the path, and as the previous one of another; one that no node has is 404."""

    def keeping(name: str) -> WrittenNode:
        async def answer(asked: Asked) -> None:
            has = asked.path == RESPONSES or asked.path.startswith(f"{RESPONSES}/resp_{name}")
            await asked.whole(200 if has else 404, name.encode())

        return WrittenNode(answer)

    with behind(tmp_path, keeping("a"), keeping("b")) as entrance:
        for name in ("a", "b", "b", "a"):
            assert entrance.http.get(f"{RESPONSES}/resp_{name}").text == name
            after = {"model": "m", "input": "x", "previous_response_id": f"resp_{name}"}
            assert entrance.http.post(RESPONSES, json=after).text == name
        assert entrance.http.get(f"{RESPONSES}/resp_c").status_code == 404
