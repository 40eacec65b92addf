"""The kvstore as a process: crashes of clients, crashes of its own, signals, the real socket."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quire_kvstore.host.arena import SHM_DIR
from quire_proto import messages as m
from quire_proto.wire.codec import from_map
from quire_proto.wire.envelope import Request
from tests.kvstore.conftest import Start
from tests.support.frame_fuzzer import Fuzzer
from tests.support.kvstore import Kvstore
from tests.support.raw_client import Client
from tests.support.service import LAYOUT
from tests.support.waits import DEADLINE_S, wait_for

pytestmark = pytest.mark.process


def segments(process: Kvstore) -> list[str]:
    """Names of this kvstore's segments in /dev/shm."""
    roster = process.run_dir / "arena.json"
    named = roster.read_text() if roster.exists() else ""
    return [path.name for path in SHM_DIR.glob("quire-*") if path.name in named]


def test_it_starts_quickly_and_without_torch(start: Start) -> None:
    """Torch and transformers are never imported; the process itself spends well under a second until
    it serves, which is given three here."""
    code = (
        "import sys, quire_services.daemons.kvstored as k\n"
        "print([n for n in ('torch', 'transformers', 'tokenizers', 'fastapi') if n in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"

    process = start()
    started = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    assert (int(started[11]) + int(started[12])) / os.sysconf("SC_CLK_TCK") < 3.0
    mapped = Path(f"/proc/{process.process.pid}/maps").read_text()
    assert "torch" not in mapped


def test_a_killed_client_gives_its_blocks_back_at_once(
    start: Start, connect: Callable[[], Client], holder: Callable[[], subprocess.Popen[str]]
) -> None:
    """kill -9: the pidfd tells, long before the lease ends."""
    start()
    reader, process = connect(), holder()
    assert reader.stats().blocks["held"] == 10

    process.kill()
    killed = time.monotonic()
    stats = wait_for(lambda: (s := reader.stats()).blocks["free"] == 64 and s, "blocks back", 3.0)

    assert time.monotonic() - killed < 3.0
    assert (stats.sessions, stats.counters["reclaimed_references"], stats.counters["fenced"]) == ((), 10, 0)


def test_a_stopped_client_is_fenced_then_killed_then_reclaimed(
    start: Start, connect: Callable[[], Client], holder: Callable[[], subprocess.Popen[str]]
) -> None:
    """Silence fences and frees nothing; after the grace the process is killed, and only then its blocks return."""
    start("--lease-ms=400", "--fence-grace-ms=600")
    reader, process = connect(), holder()
    process.send_signal(signal.SIGSTOP)

    fenced = wait_for(lambda: (s := reader.stats()).counters["fenced"] and s, "fenced")
    assert (fenced.blocks["quarantined"], fenced.blocks["free"]) == (10, 54)
    assert fenced.sessions[0].state == "fenced"

    stats = wait_for(lambda: (s := reader.stats()).blocks["free"] == 64 and s, "reclaimed")
    assert (stats.counters["killed"], stats.counters["reclaimed_references"]) == (1, 10)
    assert process.wait(DEADLINE_S) == -signal.SIGKILL


def test_where_the_kill_is_not_permitted_blocks_stay_in_quarantine(
    start: Start, connect: Callable[[], Client], holder: Callable[[], subprocess.Popen[str]]
) -> None:
    """They are not given away while the process may still write; stats and log say so, and its end frees them."""
    kvstore = start("--lease-ms=300", "--fence-grace-ms=100", "--fence-kill=false")
    reader, process = connect(), holder()
    process.send_signal(signal.SIGSTOP)

    wait_for(lambda: [e for e in kvstore.events() if e["event"] == "quarantine_stays"], "it is reported")
    stats = reader.stats()
    assert (stats.blocks["quarantined"], stats.counters["killed"], process.poll()) == (10, 0, None)
    assert [(s.state, s.pid, s.blocks) for s in stats.sessions] == [("fenced", process.pid, 10)]
    (said,) = [e for e in kvstore.events() if e["event"] == "quarantine_stays"]
    assert (said["reason"], said["client_pid"], said["pid"]) == ("may_not_kill", process.pid, kvstore.process.pid)
    client = connect()
    client.attach()
    reply = client.ask("allocate", m.Allocate(1, "t", 55 * 4), ordered=True)
    told = from_map(m.Allocated, reply.body)
    assert (told.code, told.retry_after_ms) == (m.NO_SPACE, 0), "what needs them should not wait"

    process.kill()
    wait_for(lambda: reader.stats().blocks["free"] == 64, "its end frees them")


def test_a_client_that_hangs_up_is_fenced_and_may_still_detach(start: Start, connect: Callable[[], Client]) -> None:
    """The end of the side socket is no death: its blocks wait for the process, or for its detach."""
    start("--fence-grace-ms=100")
    client, reader = connect(), connect()
    client.attach()
    assert client.ask("allocate", m.Allocate(1, "t", 8), ordered=True).code == ""

    client.side.close()
    wait_for(lambda: reader.stats().blocks["quarantined"] == 2, "fenced")
    assert client.ask("heartbeat", m.Heartbeat()).code == "STALE_SESSION"
    assert client.ask("detach", m.Empty(), ordered=True).body == {"references": 2}

    stats = reader.stats()
    assert (stats.blocks["free"], stats.counters["killed"]) == (64, 0)


def test_a_process_that_connects_again_has_unmapped(start: Start, connect: Callable[[], Client]) -> None:
    """A process that hung up and comes back gives up what it held: nothing waits for the end of the process."""
    start("--fence-grace-ms=100")
    client, again, reader = connect(), connect(), connect()
    client.attach()
    assert client.ask("allocate", m.Allocate(1, "t", 8), ordered=True).code == ""
    client.side.close()
    wait_for(lambda: reader.stats().blocks["quarantined"] == 2, "fenced")

    again.attach()

    stats = reader.stats()
    assert (stats.blocks["free"], [session.state for session in stats.sessions]) == (64, ["ready"])


def test_a_client_that_holds_nothing_may_just_leave(start: Start, connect: Callable[[], Client]) -> None:
    """Hanging up with an empty ledger ends the session."""
    start()
    client, reader = connect(), connect()
    client.attach()
    client.side.close()

    wait_for(lambda: not reader.stats().sessions, "session gone")
    assert reader.stats().counters["fenced"] == 0


def test_the_files_are_private(start: Start, run_dir: Path) -> None:
    """Sockets, key and segment are 0600; a directory that others may enter is refused."""
    process = start()
    names = ["kvstore.sock", "attach.sock", "root.key", "arena.json"]
    modes = [stat.S_IMODE((run_dir / name).stat().st_mode) for name in names]
    modes += [stat.S_IMODE((SHM_DIR / name).stat().st_mode) for name in segments(process)]
    assert modes == [0o600] * 5
    process.end(signal.SIGTERM)

    run_dir.chmod(0o755)
    assert start(wait=False).end(0) == 1


def test_sigterm_leaves_nothing_but_the_key(start: Start, connect: Callable[[], Client], run_dir: Path) -> None:
    """A clean end: exit 0, no socket, no roster, no segment; the client sees the end of its side socket."""
    process = start()
    [segment] = segments(process)
    client = connect()
    client.attach()

    assert process.end(signal.SIGTERM) == 0

    assert client.side.recv(16) == b""
    assert {path.name for path in run_dir.iterdir()} == {"prepared.json", "log", "root.key"}
    assert not (SHM_DIR / segment).exists()
    assert [event["event"] for event in process.events()] == ["arena_chosen", "kvstore_started", "kvstore_stopped"]


def test_a_killed_kvstore_is_cleaned_up_by_the_next(start: Start, connect: Callable[[], Client], run_dir: Path) -> None:
    """kill -9: the next start removes the old segment, keeps the root key, and has another boot id."""
    first = start()
    [old] = segments(first)
    key = (run_dir / "root.key").read_bytes()
    client = connect()
    client.attach()
    first.end(signal.SIGKILL)
    assert client.side.recv(16) == b""
    (run_dir / "kvstore.sock").unlink()

    second = start()

    [new] = segments(second)
    assert (old != new, (SHM_DIR / old).exists(), (SHM_DIR / new).exists()) == (True, False, True)
    assert (run_dir / "root.key").read_bytes() == key
    assert connect().ask("stats", m.Empty()).boot != client.boot
    assert client.ask("step", m.Step(), ordered=True).code == "STALE_SESSION"


def test_a_second_kvstore_in_the_same_directory_is_refused(start: Start, connect: Callable[[], Client]) -> None:
    """It says so, and the first one keeps its arena and goes on."""
    first = start()
    second = start(wait=False)

    assert second.process.wait(DEADLINE_S) == 1
    second.end(0)
    assert "another kvstore" in (first.run_dir / "log").read_text()
    assert len(segments(first)) == 1
    assert connect().stats().num_blocks == 64


@pytest.mark.parametrize(
    ("flags", "blocks", "message"),
    [
        ((), 1 << 30, "shared memory"),
        ((), 4, "may pin"),
        (("--pin-budget=0.01",), 64, "may pin"),
        (("--prepared=/nonexistent",), 64, "prepared"),
    ],
)
def test_a_start_that_cannot_work_says_why(
    start: Start, run_dir: Path, flags: tuple[str, ...], blocks: int, message: str
) -> None:
    """One line, exit 1, nothing left behind."""
    process = start(*flags, blocks=blocks, wait=False)

    assert process.end(0) == 1
    text = (run_dir / "log").read_text()
    assert message in text
    assert "Traceback" not in text
    assert not (run_dir / "arena.json").exists()


def test_fuzzed_frames_through_the_socket(start: Start, connect: Callable[[], Client]) -> None:
    """Thousands of damaged frames, each answered; the server lives and its blocks are all accounted for."""
    start()
    client, reader = connect(), connect()
    client.attach()
    before = reader.stats().blocks
    fuzzer, batch, batches = Fuzzer(7), 100, 30
    replies = []
    for _ in range(batches):
        # In batches: replies to a peer that does not read are dropped once its queue is full.
        for _ in range(batch):
            # Another session's id: whatever is still well-formed changes nothing either.
            client.dealer.send(fuzzer.frame(client.boot, b"s" * 16, 2))
        replies += [client.receive() for _ in range(batch)]

    assert sum(reply.code != "" for reply in replies) > len(replies) // 2
    after = reader.stats()
    assert (after.blocks, after.counters["internal_errors"]) == (before, 0)
    assert client.ask("step", m.Step(), ordered=True).code == ""


def test_more_than_one_frame_and_too_large_a_frame_are_answered(start: Start, connect: Callable[[], Client]) -> None:
    """Both get an error reply, and the connection goes on."""
    start()
    client = connect()
    client.dealer.send_multipart([b"", b"x"])
    assert client.receive().code == "BAD_FRAME"
    client.dealer.send(bytes(17 * 1024 * 1024))
    assert client.receive().code == "TOO_LARGE"
    assert client.ask("stats", m.Empty()).code == ""


def test_a_peer_that_never_reads_blocks_nobody(start: Start, connect: Callable[[], Client]) -> None:
    """Its replies are dropped once its queue is full; others are answered in time."""
    start()
    deaf, reader = connect(), connect()
    request = Request(b"", b"", 1, "stats", 0, {}).encode()
    while reader.stats().counters["unsent_replies"] == 0:
        for _ in range(2000):
            deaf.dealer.send(request)

    began = time.monotonic()
    reader.stats()
    assert time.monotonic() - began < 5.0


def test_a_second_signal_ends_at_once(start: Start) -> None:
    """While a first signal is being served the second one exits with 128 + its number."""
    process = start()
    process.process.send_signal(signal.SIGSTOP)
    process.process.send_signal(signal.SIGTERM)
    process.process.send_signal(signal.SIGINT)
    process.process.send_signal(signal.SIGCONT)

    # Both are pending at once: Python runs the handlers one after the other, the second exits.
    assert process.end(0) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    left = segments(process)
    (process.run_dir / "kvstore.sock").unlink()
    start()
    assert not (SHM_DIR / left[0]).exists()


def test_the_pool_costs_no_memory_until_it_is_written(start: Start) -> None:
    """If that is asked for, a pool far larger than what is used commits nothing: many stacks fit on one machine."""
    process = start("--reserve=false", blocks=100_000)
    [segment] = segments(process)

    info = (SHM_DIR / segment).stat()
    assert info.st_size == LAYOUT.arena_bytes(100_000)
    assert info.st_blocks == 0
