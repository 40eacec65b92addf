"""The side socket of a real kvstore process under hostile peers: it stays up, serves the honest, and leaks nothing."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from quire_kvstore.host.attach_socket import MAX_CONNECTIONS
from quire_kvstore.server.liveness import DYING_MS
from quire_proto import messages as m
from tests.kvstore.conftest import Start
from tests.support.kvstore import Kvstore
from tests.support.raw_client import Client
from tests.support.service import LAYOUT
from tests.support.waits import DEADLINE_S, wait_for

pytestmark = pytest.mark.process
Connect = Callable[[], Client]


def dial(run_dir: Path) -> socket.socket:
    """A connection to the side socket that has read nothing yet."""
    side = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    side.connect(str(run_dir / "attach.sock"))  # waits for room in the queue, which it would not with a timeout
    side.settimeout(DEADLINE_S)
    return side


def descriptors(process: Kvstore) -> int:
    """How many the kvstore has open."""
    return len(os.listdir(f"/proc/{process.process.pid}/fd"))


@contextmanager
def honest(process: Kvstore, connect: Connect) -> Iterator[Callable[[], None]]:
    """A client that allocated before; what is yielded makes a round of its requests, each answered well.

    Afterwards the kvstore's descriptors are as many as before, newcomers can attach, and nothing went wrong inside.
    """
    client = connect()
    client.attach()
    number = 0

    def round_of_requests() -> None:
        nonlocal number
        number += 1
        assert client.ask("allocate", m.Allocate(number, "t", 9), ordered=True).code == ""
        assert client.ask("free", m.Free(number.to_bytes(4, "little")), ordered=True).code == ""
        assert client.ask("heartbeat", m.Heartbeat(number)).code == ""

    round_of_requests()
    before = descriptors(process)
    yield round_of_requests
    round_of_requests()
    wait_for(lambda: descriptors(process) == before, "all descriptors were closed")
    newcomer = connect()
    newcomer.attach()
    assert newcomer.ask("allocate", m.Allocate(1, "t", 9), ordered=True).code == ""
    stats = client.stats()
    assert (len(stats.sessions), stats.counters["internal_errors"], stats.counters["fenced"]) == (2, 0, 0)
    assert process.process.poll() is None
    assert "Traceback" not in (process.run_dir / "log").read_text()


class Rogue:
    """Does at random what no client does."""

    def __init__(self, run_dir: Path, seed: int) -> None:
        self._run_dir, self._random = run_dir, random.Random(seed)
        self._open: list[socket.socket] = []
        self._acts = (self._dial, self._dial, self._noise, self._noise, self._empty, self._descriptors, self._half)
        self._acts += (self._close, self._close, self._hello)

    def act(self) -> None:
        """One thing."""
        side = self._random.choice(self._open) if self._open else self._dial()
        with suppress(OSError):  # it shut this one down before, or was hung up on
            self._random.choice(self._acts)(side)

    def _dial(self, _: socket.socket | None = None) -> socket.socket:
        side = dial(self._run_dir)
        side.setblocking(False)
        self._open.append(side)
        return side

    def _noise(self, side: socket.socket) -> None:
        side.send(self._random.randbytes(self._random.choice([1, 16, 300, 5000, 100_000])))

    def _empty(self, side: socket.socket) -> None:
        side.send(b"")

    def _descriptors(self, side: socket.socket) -> None:
        socket.send_fds(side, [b"x"], [0, side.fileno()] * self._random.randint(1, 20))

    def _half(self, side: socket.socket) -> None:
        side.shutdown(self._random.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))

    def _hello(self, side: socket.socket) -> None:
        side.recv(self._random.choice([1, 4096]))

    def _close(self, side: socket.socket) -> None:
        self._open.remove(side)
        side.close()

    def end(self) -> None:
        """Close what is still open."""
        for side in self._open:
            side.close()


def test_noise_of_every_kind_disturbs_nobody(run_dir: Path, start: Start, connect: Connect) -> None:
    """Random bytes, empty packets, descriptors, half hellos, shutdowns and closes in any order, seeded."""
    process = start()
    with honest(process, connect) as served:
        rogue = Rogue(run_dir, seed=20_26)
        for number in range(1500):
            rogue.act()
            if number % 50 == 0:
                served()
        rogue.end()


def test_a_connection_closed_at_every_point(run_dir: Path, start: Start, connect: Connect) -> None:
    """Before the hello, after it, after attach, after ready, holding blocks: in each case nothing is left behind."""
    process = start()
    with honest(process, connect) as served:
        dial(run_dir).close()
        with dial(run_dir) as side:
            assert side.recv(4096)
        for point in ("attached", "ready", "holding"):
            client = Client(run_dir)
            client.attach(ready=point != "attached")
            if point == "holding":
                assert client.ask("allocate", m.Allocate(1, "t", 40), ordered=True).code == ""
                assert client.ask("detach", m.Empty(), ordered=True).code == ""
            client.close()
            served()


def test_a_token_is_worth_nothing_without_its_connection(start: Start, connect: Connect, run_dir: Path) -> None:
    """A forged token, one whose connection is closed, and one already used are refused by name."""
    process = start()
    with honest(process, connect) as served:
        reader = Client(run_dir)
        with dial(run_dir) as side:
            gone = side.recv(4096)[-16:]
        served()
        with dial(run_dir) as side:
            used = side.recv(4096)[-16:]
            assert reader.ask("attach", m.Attach(b"n" * 16, used, "x", LAYOUT)).code == ""
            for token in (os.urandom(16), gone, used):
                reply = reader.ask("attach", m.Attach(os.urandom(16), token, "x", LAYOUT))
                assert reply.code == "NOT_PERMITTED"
        wait_for(lambda: len(reader.stats().sessions) == 1, "the one session of the used token is gone")
        reader.close()


def test_an_empty_packet_is_no_goodbye(start: Start, connect: Connect) -> None:
    """A session whose side socket says something, even nothing, goes on."""
    start()
    client = connect()
    client.attach()
    assert client.ask("allocate", m.Allocate(1, "t", 9), ordered=True).code == ""
    for packet in (b"", b"x", b""):
        client.side.send(packet)
    sent = client.stats().uptime_ms
    wait_for(lambda: client.stats().uptime_ms > sent + 5 * DYING_MS, "it was looked at")
    assert client.ask("extend", m.Extend(1, 20), ordered=True).code == ""
    assert client.stats().counters["fenced"] == 0


def test_descriptors_sent_along_are_closed(run_dir: Path, start: Start, connect: Connect) -> None:
    """The other end of a pipe whose descriptor was sent sees it closed while the connection is open."""
    process = start()
    with honest(process, connect):
        reading, writing = os.pipe()
        with dial(run_dir) as side:
            socket.send_fds(side, [b"x"], [writing] * 5)
            os.close(writing)
            assert os.read(reading, 1) == b""
        os.close(reading)


@pytest.mark.slow
def test_silent_connections_keep_no_engine_out(run_dir: Path, start: Start, connect: Connect) -> None:
    """With every place taken by those that say nothing, the oldest of them give way to newcomers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * MAX_CONNECTIONS)), hard))
    process = start()
    with honest(process, connect) as served, ExitStack() as stack:
        silent = [stack.enter_context(dial(run_dir)) for _ in range(MAX_CONNECTIONS + 50)]
        served()
        client = Client(run_dir)
        client.attach()
        assert client.ask("allocate", m.Allocate(1, "t", 9), ordered=True).code == ""
        assert client.ask("detach", m.Empty(), ordered=True).code == ""
        client.close()
        assert silent[0].recv(4096), "it had its hello"
        assert silent[0].recv(4096) == b"", "the oldest gave way"
        served()
    assert [e["event"] for e in process.events()].count("side_socket_full") == 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", [6, 7])
def test_no_descriptor_left(run_dir: Path, start: Start, connect: Connect, left: int) -> None:
    """A kvstore that may open no connection, or no pidfd more, hangs up on newcomers, serves the others, recovers."""
    process = start()
    with honest(process, connect) as served:
        pid = process.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(process) + left, limits[1]))
        with ExitStack() as stack:
            sides = [stack.enter_context(dial(run_dir)) for _ in range(200)]
            hung_up = [not side.recv(4096) for side in sides]
            assert any(hung_up)
            assert not all(hung_up)
            served()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert process.end(signal.SIGTERM) == 0
