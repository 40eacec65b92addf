"""Names of engines: one name is one living process; a second one is refused by name and disturbs nothing."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from quire_engine import engine as engine_module
from quire_engine.engine import Engine as EngineProcess
from quire_engine.scheduling.front import Front
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_engine.scheduling.step_log import StepLog
from quire_proto.client.client import KVClient
from quire_proto.gateway_link import Hello, Load, Refused, decode_message, encode_message
from quire_proto.wire.errors import KvstoreUnreachable, NameTaken
from quire_services.gateway.engines import Engines
from quire_services.gateway.link.engine import Engine
from quire_services.gateway.link_server import LinkServer
from tests.support.children import python_child
from tests.support.kvstore import Kvstore
from tests.support.service import LAYOUT
from tests.support.waits import wait_for

HELLO = Hello("engine-1", "model", 512, 320, b"", 1)
TEN_S = 10.0


def on_a_link(path: Path, test: Callable[[Engines], Awaitable[None]]) -> None:
    """Run a test beside the gateway's side of the link."""

    async def run() -> None:
        engines = Engines(max_queue=10)
        server = LinkServer(engines, path)
        await server.start()
        try:
            await asyncio.wait_for(test(engines), TEN_S)
        finally:
            await server.stop()
            while len(asyncio.all_tasks()) > 1:  # connections that end
                await asyncio.sleep(0.005)

    path.parent.chmod(0o700)
    asyncio.run(run())


async def refusal(reader: asyncio.StreamReader) -> str:
    """Why a connection was ended."""
    message = decode_message(await reader.readexactly(int.from_bytes(await reader.readexactly(4), "little")))
    assert await reader.read() == b""
    assert isinstance(message, Refused)
    return message.reason


@pytest.mark.source("clusterio/clusterio#350", "gpustack/gpustack#2046")
def test_the_gateway_keeps_the_first(tmp_path: Path) -> None:
    """The second of a name is told so and is no engine; the first, however silent, keeps its place until its end."""
    path = tmp_path / "gateway.sock"

    async def test(engines: Engines) -> None:
        _, first = await asyncio.open_unix_connection(str(path))
        first.write(encode_message(HELLO))
        while engines.summary()["connected"] != 1:
            await asyncio.sleep(0.005)
        for hello, why in (
            (replace(HELLO, pid=2), "engine-1.*pid 1.*--name"),
            (replace(HELLO, engine="e", vocab_size=5), "serves"),
        ):
            reader, second = await asyncio.open_unix_connection(str(path))
            second.write(encode_message(hello))
            assert re.search(why, await refusal(reader))
            second.close()
        assert engines.summary()["connected"] == 1
        assert not first.is_closing()
        first.write(encode_message(Load(True, 0, 0, {})))
        while engines.summary()["ready"] != 1:
            await asyncio.sleep(0.005)
        first.transport.abort()

    on_a_link(path, test)


@pytest.mark.source("filecoin-project/lotus#1657")
def test_a_new_process_takes_the_name_of_a_dead_one_at_once(tmp_path: Path) -> None:
    """Also where its hello is read before the end of the dead one's connection, with bytes of that one still unread."""
    path = tmp_path / "gateway.sock"

    async def test(engines: Engines) -> None:
        ends = socket.socketpair()
        _, old_writer = await asyncio.open_unix_connection(sock=ends[0])
        old_writer.transport.pause_reading()  # type: ignore[attr-defined]
        assert engines.add(Engine(HELLO, old_writer)) == ""
        assert "pid 1" in engines.add(Engine(replace(HELLO, pid=2), old_writer))
        ends[1].sendall(encode_message(Load(True, 0, 0, {})))
        ends[1].close()
        assert not old_writer.is_closing()
        assert engines.add(Engine(replace(HELLO, pid=2), old_writer)) == ""
        assert [engine.hello.pid for engine in engines._engines.values()] == [2]
        await old_writer.wait_closed()

    on_a_link(path, test)


@pytest.mark.source("clusterio/clusterio#350")
@pytest.mark.parametrize("refused", [False, True])
def test_an_engine_that_is_sent_away_does_not_storm_back(tmp_path: Path, refused: bool) -> None:
    """It backs off whatever ended its connection: a few attempts a second, or one in five seconds if it was refused."""
    asked = 0

    async def send_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readexactly(4)
        if refused:
            writer.write(encode_message(Refused("another has the name")))
            await writer.drain()
        writer.close()

    async def run() -> None:
        path = tmp_path / "gateway.sock"
        server = await asyncio.start_unix_server(send_away, str(path))
        front = Front(path, HELLO, lambda: Load(True, 0, 0, {}))
        front.start()
        await asyncio.sleep(1.5)
        await asyncio.to_thread(front.stop)
        server.close()

    asyncio.run(run())
    assert 1 <= asked <= (1 if refused else 8)


# --- the kvstore -----------------------------------------------------------------------------------------------


def another_process(run_dir: Path, name: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process that is attached under a name until it is killed."""
    code = (
        "import json, sys, time; from quire_kv import KVClient; from quire_proto.wire.layout import Layout\n"
        "client = KVClient(sys.argv[1], name=sys.argv[2], layout=Layout(**json.loads(sys.argv[3])))\n"
        "print('attached', flush=True); time.sleep(600)"
    )
    return python_child(code, str(run_dir), name, json.dumps(asdict(LAYOUT)), says="attached")


@pytest.mark.process
@pytest.mark.source("gpustack/gpustack#2046", "clusterio/clusterio#350")
def test_the_kvstore_keeps_the_first(run_dir: Path) -> None:
    """A living process's name is refused to others, also while it is frozen; after a kill -9 it is free at once."""
    store = Kvstore(run_dir).start()
    with another_process(run_dir, "engine-1") as first:
        for number in (signal.SIGCONT, signal.SIGSTOP):
            first.send_signal(number)
            with pytest.raises(NameTaken, match=rf"pid {first.pid}.*'engine-1'.*--name") as refused:
                KVClient(run_dir, name="engine-1", layout=LAYOUT)
            assert refused.value.detail == {"pid": first.pid}
        with closing(KVClient(run_dir, name="engine-2", layout=LAYOUT)):
            pass
        with closing(KVClient(run_dir, layout=LAYOUT)), closing(KVClient(run_dir, layout=LAYOUT)):
            pass  # without a name there is nothing to take
        first.kill()

        def attached() -> KVClient | None:
            with suppress(NameTaken):
                return KVClient(run_dir, name="engine-1", layout=LAYOUT)
            return None

        wait_for(attached, "the name of the dead is free", 2).close()
    assert store.end(signal.SIGTERM) == 0


@pytest.mark.source("gpustack/gpustack#2046")
def test_an_engine_gives_up_on_a_name_that_stays_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a predecessor that is ending, then ends with the kvstore's sentence."""
    monkeypatch.setattr(engine_module, "NAME_S", 0.3)
    taken = NameTaken("NAME_TAKEN", "another process (pid 7) is attached as 'engine-1'")
    answers = iter([taken, KvstoreUnreachable("gone")])

    def attach() -> KVClient:
        raise next(answers, taken)

    engine = EngineProcess(
        attach, lambda _: pytest.fail("never attached"), SchedulerLimits(1, 8, 4), 64, 64, frozenset(), StepLog(None)
    )
    engine.front = Front(Path("/nowhere"), HELLO, engine.load)
    began = time.monotonic()
    with pytest.raises(NameTaken, match="pid 7"):
        engine.run()
    assert 0.3 <= time.monotonic() - began < TEN_S
