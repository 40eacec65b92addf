"""A replica without Serve: what a specification becomes, what passes, and when it says that its stack is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from quire_services.cluster.node_stack import STACK_FAILED, STACK_STOPPED, StackReport
from quire_services.cluster.nodes import SERVING, STARTING
from quire_services.cluster.ray_serve import application, build, replica, replica_app
from quire_services.cluster.ray_serve.replica import LEAST_PATIENCE_S, StackReplica
from quire_services.cluster.ray_serve.replica_app import ReplicaApp
from quire_services.cluster.spec import SpecError, read_spec
from tests.support.entrance import Asked, WrittenNode
from tests.support.http_server import served
from tests.support.ports import free_port

SPEC = "stack: {model: m}\nresources: {cpus: 2}\nhost: 127.0.0.1\n"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (SPEC + "entrance: {}\n", "entrance: Serve's own proxies stand in front"),
        (SPEC.replace("host: 127.0.0.1\n", ""), "there are no API keys"),
        (SPEC + "nods: 1\n", ":4: nods: no such field"),
    ],
)
def test_what_makes_no_sense_behind_serve_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """An entrance of our own, a gateway that is open to all by accident, and any other mistake: in one line."""
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(SpecError) as error:
        build({"config": str(tmp_path / "cluster.yaml")})
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("args", [{}, {"config": "x", "nodes": "2"}])
def test_the_builder_takes_a_file_and_nothing_else(args: dict[str, str]) -> None:
    """What is misspelt on Serve's command line is named."""
    with pytest.raises(SpecError, match="say config="):
        build(args)


def test_a_replica_s_gateway_listens_on_the_loopback(tmp_path: Path) -> None:
    """With keys it need not be said, whichever Ray the specification names; another address is taken as said."""
    (tmp_path / "quire.toml").write_text('[[tenants]]\nname = "a"\nkeys = ["sk-a"]\n')
    file = tmp_path / "cluster.yaml"
    file.write_text("stack: {model: m}\nconfig: quire.toml\nray: 10.0.0.5:6379\n")
    assert application.replica_order(read_spec(file), file).host == "127.0.0.1"
    file.write_text(file.read_text() + "host: 10.0.0.6\n")
    assert application.replica_order(read_spec(file), file).host == "10.0.0.6"


# --- what passes -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def alive(app: ReplicaApp) -> AsyncIterator[None]:
    """Between startup and shutdown, as Serve's own lifespan runs it."""
    told, said = asyncio.Queue[Message](), asyncio.Queue[Any]()
    life = asyncio.ensure_future(app({"type": "lifespan"}, told.get, said.put))
    told.put_nowait({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        told.put_nowait({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        await life


async def ask(app: ReplicaApp, path: str, *, root: str = "", request_id: bytes = b"mine") -> list[Any]:
    """A request as Serve hands it on; the messages of its answer."""
    said: list[Any] = []
    body: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Message:
        return body.pop() if body else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    await app({**scope, "root_path": root, "headers": [(b"x-request-id", request_id)]}, receive, send)
    return said


def with_node(node: WrittenNode, act: Callable[[ReplicaApp], Coroutine[Any, Any, None]]) -> None:
    """Do it with the application of a replica whose stack is this node."""

    async def run(url: str) -> None:
        app = ReplicaApp("r", lambda: StackReport(SERVING, url))
        async with alive(app):
            await act(app)

    with served(node) as port:
        asyncio.run(run(f"http://127.0.0.1:{port}"))


def test_a_stream_passes_in_the_pieces_in_which_it_comes() -> None:
    """A piece is with the client before the next one is made."""
    passed: list[Any] = []

    async def waits(asked: Asked) -> None:
        await asked.head()
        await asked.piece(b"data: 1\n\n")
        while not passed:
            await asyncio.sleep(0.01)
        await asked.piece(b"data: 2\n\n", more=False)

    async def act(app: ReplicaApp) -> None:
        async def receive() -> Message:
            return body.pop() if body else await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            pieces.append(message.get("body", b""))
            if message.get("body"):
                passed.append(message)

        body: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]
        pieces: list[bytes] = []
        scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": []}
        await asyncio.wait_for(app(scope, receive, send), 20)
        assert b"".join(pieces) == b"data: 1\n\ndata: 2\n\n"

    with_node(WrittenNode(waits), act)


def test_a_route_of_serve_s_is_taken_off_and_an_id_is_said_once() -> None:
    """The stack sees its own paths; the id that Serve's proxy says is left to it, another one is the stack's word."""

    async def says_its_id(asked: Asked) -> None:
        said = asked.headers["x-request-id"].encode()
        await asked.whole(200, b"{}", [(b"x-request-id", said), (b"x-own", b"1")])

    node = WrittenNode(says_its_id)

    async def act(app: ReplicaApp) -> None:
        head, _ = await ask(app, f"/agents{CHAT}", root="/agents")
        assert head["status"] == 200
        names = [name for name, _ in head["headers"]]
        assert b"x-own" in names
        assert b"x-request-id" not in names
        refused, _ = await ask(app, "/metrics")
        assert refused["status"] == 404
        other, _ = await ask(app, CHAT, request_id=b"has a space")
        assert b"x-request-id" in dict(other["headers"])

    with_node(node, act)
    assert [asked.path for asked in node.asked] == [CHAT, CHAT]
    assert node.asked[0].headers["x-request-id"] == "mine"


def test_a_gateway_that_comes_back_is_waited_for_at_its_new_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes meanwhile is answered there; after its time it is told when to come again."""
    monkeypatch.setattr(replica_app, "FOLLOW_S", 0.05)

    async def answers(asked: Asked) -> None:
        await asked.whole(200, b"{}")

    async def run(gone: str, back: str) -> None:
        urls = [gone]
        app = ReplicaApp("r", lambda: StackReport(STARTING, urls[-1]))
        async with alive(app):
            monkeypatch.setattr(replica_app, "HOLD_S", 0.2)
            head, _ = await ask(app, CHAT)
            assert head["status"] == 503
            assert dict(head["headers"])[b"retry-after"]
            monkeypatch.setattr(replica_app, "HOLD_S", 20.0)
            asked = asyncio.ensure_future(ask(app, CHAT))
            await asyncio.sleep(0)
            urls.append(back)
            assert (await asked)[0]["status"] == 200

    with served(WrittenNode(answers)) as port:
        asyncio.run(run(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{port}"))


# --- health --------------------------------------------------------------------------------------------------------


class WrittenStack:
    """Stands where a replica has its stack."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.now, self.drained = StackReport(SERVING), 0

    def report(self) -> StackReport:
        return self.now

    def drain(self) -> None:
        self.drained += 1
        self.now = StackReport(STACK_STOPPED)


@pytest.fixture
def replica_of_it(monkeypatch: pytest.MonkeyPatch) -> tuple[StackReplica, WrittenStack]:
    """A replica that has started, and its stack."""
    monkeypatch.setattr(replica, "NodeStack", WrittenStack)
    monkeypatch.setattr(replica, "replica_name", lambda: "r")
    order = application.StackOrder("c", {}, (), "", {}, drain_s=0)
    it = StackReplica(order)
    asyncio.run(it.__serve_build_asgi_app__())
    return it, it._stack  # type: ignore[return-value]


def test_a_stack_that_mends_itself_is_not_replaced(
    replica_of_it: tuple[StackReplica, WrittenStack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve hears that a stack is broken when it has not served for longer than its starts take, or has ended."""
    it, stack = replica_of_it
    it._served, clock = 0.0, [0.0]
    monkeypatch.setattr(replica, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def check() -> None:
        asyncio.run(it.check_health())

    check()
    stack.now = StackReport(STARTING)
    clock[0] = LEAST_PATIENCE_S - 1
    check()
    stack.now = StackReport(SERVING)
    clock[0] = LEAST_PATIENCE_S + 1
    check()
    stack.now = StackReport(STARTING)
    clock[0] += LEAST_PATIENCE_S + 1
    with pytest.raises(RuntimeError, match="does not serve, for 31 seconds"):
        check()
    stack.now = StackReport(STACK_FAILED, reason="no such model")
    with pytest.raises(RuntimeError, match="no such model"):
        check()


def test_a_stack_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own reason is Serve's."""
    monkeypatch.setattr(replica, "NodeStack", WrittenStack)
    monkeypatch.setattr(replica, "replica_name", lambda: "r")
    it = StackReplica(application.StackOrder("c", {}, (), "", {}, drain_s=0))
    it._stack.now = StackReport(STACK_FAILED, reason="no such model")  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="the stack does not start: no such model"):
        asyncio.run(it.__serve_build_asgi_app__())


def test_a_replica_that_goes_drains_its_stack(replica_of_it: tuple[StackReplica, WrittenStack]) -> None:
    """And is gone when that has ended."""
    it, stack = replica_of_it
    it.__del__()
    assert (stack.drained, stack.now.state) == (1, STACK_STOPPED)
