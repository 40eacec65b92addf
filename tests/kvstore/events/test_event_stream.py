"""The event stream of a real kvstore: asked for by flag or variable, read over its sockets, through restarts."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quire_kvstore.events.errors import EventsError
from quire_proto import messages as m
from quire_proto.client.client import KVReader
from quire_proto.wire.codec import from_map
from quire_proto.wire.digests import split
from quire_proto.wire.u32 import pack_u32
from quire_services.config.settings import KvstoreSettings
from quire_services.daemons.event_address import endpoints
from tests.kvstore.events.subscriber import AllBlocksCleared, BlockStored, Subscriber
from tests.support.engine_loop import running_engine
from tests.support.kvstore import Kvstore
from tests.support.raw_client import Client

pytestmark = pytest.mark.process
DIGESTS = bytes(range(1, 65))


@pytest.fixture
def opened() -> Iterator[list[Client | Subscriber]]:
    """Sockets to be closed."""
    every: list[Client | Subscriber] = []
    yield every
    for one in every:
        one.close()


def subscribe(where: m.Events, opened: list[Client | Subscriber]) -> Subscriber:
    reader = Subscriber(where.endpoint, where.replay, where.topic)
    opened.append(reader)
    reader.catch_up()
    return reader


def sealed(run_dir: Path, opened: list[Client | Subscriber]) -> Client:
    """A client that has two blocks of tenant acme sealed."""
    client = Client(run_dir)
    opened.append(client)
    assert not client.attach().wants_tokens
    assert client.ask("allocate", m.Allocate(1, "acme", 9, DIGESTS), ordered=True).code == ""
    step = m.Step(fills=pack_u32([1, 9]), seals=(m.Seal(1, 0, DIGESTS),))
    assert from_map(m.Stepped, client.ask("step", step, ordered=True).body).seals[0].code == m.OK
    return client


def test_a_kvstore_tells_what_is_sealed(run_dir: Path, opened: list[Client | Subscriber]) -> None:
    """``events`` names two sockets that are the user's own; a sealed chain comes out of them."""
    process = Kvstore(run_dir, "--events=ipc", "--events-topic=kv", "--events-hashes=bytes").start()
    asker = Client(run_dir)
    opened.append(asker)
    where = from_map(m.Events, asker.ask("events", m.Empty()).body)
    reader = subscribe(where, opened)
    sealed(run_dir, opened)
    first, second = split(DIGESTS)

    reader.read_until(lambda view: set(view.parents) == {first, second}, "two names")
    assert (where.topic, where.tokens, where.hashes) == ("kv", "none", "bytes")
    assert reader.view.parents == {first: None, second: first}
    assert reader.view.keys == {first: ("acme",), second: None}
    for name in ("events.sock", "events-replay.sock"):
        assert stat.S_IMODE((run_dir / name).stat().st_mode) == 0o600
    assert process.end(signal.SIGTERM) == 0
    reader.read_until(lambda view: not view.parents, "the end clears")
    assert not list(run_dir.glob("events*"))


def test_a_restart_is_seen_as_a_gap_that_clears(run_dir: Path, opened: list[Client | Subscriber]) -> None:
    """A subscriber that slept through kill -9 and a new boot ends up with what the new one has."""
    process = Kvstore(run_dir, "--events=ipc").start()
    asker = Client(run_dir)
    opened.append(asker)
    reader = subscribe(from_map(m.Events, asker.ask("events", m.Empty()).body), opened)
    sealed(run_dir, opened)
    reader.read_until(lambda view: len(view.parents) == 2, "two names")
    process.end(signal.SIGKILL)
    (run_dir / "kvstore.sock").unlink()
    process = Kvstore(run_dir, "--events=ipc").start()
    last = reader.last
    reader.catch_up()

    assert not reader.view.parents
    assert reader.last > last
    assert process.end(signal.SIGTERM) == 0


def test_engines_name_their_tokens_when_everybodys_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Client | Subscriber]
) -> None:
    """A real engine's prompt and answer are told token by token, block by block, under the tenant's digests; what is
    salted has names only, because no request without the salt can hit it."""
    monkeypatch.setenv("QUIRE_KVSTORE_EVENTS", "ipc")
    monkeypatch.setenv("QUIRE_KVSTORE_EVENTS_TOKENS", "all")
    prompt = [7 + i % 200 for i in range(40)]
    with running_engine(tmp_path) as bench:
        with KVReader(bench.run_dir) as kvstore:
            reader = subscribe(kvstore.events(), opened)
        bench.ask("a", prompt, max_tokens=24)
        bench.end("a")
        text = [*prompt, *bench.front.tokens["a", 0]]
        reader.read_until(lambda view: len(view.parents) == 3, "64 tokens less the last one, in blocks of 16")
        plain = list(reader.view.log)
        bench.ask("b", prompt, max_tokens=24, salt="pepper")
        bench.end("b")
        reader.read_until(lambda view: len(view.parents) == 6, "the same blocks under the salt")

    salted = [event for event in reader.view.log[len(plain) :] if isinstance(event, BlockStored)]
    assert sum(len(event.block_hashes) for event in salted) == 3
    assert not any(event.token_ids for event in salted)
    stored = [event for event in plain if isinstance(event, BlockStored)]
    assert [token for event in stored for token in event.token_ids] == text[:48]
    assert stored[0].extra_keys is not None
    assert stored[0].extra_keys[0] == ("tenant",)
    assert isinstance(reader.view.log[0], AllBlocksCleared)


@pytest.mark.parametrize(
    ("where", "tokens", "named"),
    [
        ("tcp://0.0.0.0:5557", "none", "others reach"),
        ("tcp://[::]:5557", "none", "others reach"),
        ("tcp://10.0.0.1:5557", "none", "others reach"),
        ("tcp://*:5557", "none", "neither"),
        ("tcp://localhost:5557", "none", "neither"),
        ("tcp://127.0.0.1:0", "none", "neither"),
        ("tcp://127.0.0.1:65535", "none", "neither"),
        ("tcp://127.0.0.999:5557", "none", "neither"),
        ("ipc:///tmp/x", "none", "neither"),
        ("yes", "none", "neither"),
        ("tcp://127.0.0.1:5557", "all", "events_tokens"),
        ("tcp://[::1]:5557", "all", "events_tokens"),
    ],
)
def test_places_that_others_reach_are_refused(run_dir: Path, where: str, tokens: str, named: str) -> None:
    """A sentence that says what is allowed."""
    with pytest.raises(EventsError, match=named):
        endpoints(KvstoreSettings(events=where, events_tokens=tokens), run_dir)


@pytest.mark.parametrize("where", ["0.0.0.0", "[::]", "8.8.8.8", "[2600::1]", "[::ffff:808:808]"])
def test_a_private_network_is_one_by_its_address(run_dir: Path, where: str) -> None:
    """A wildcard and an address of the internet are not, whatever is said; of neither is more asked after ``any``."""
    for tokens in ("none", "all"):
        pool = KvstoreSettings(events=f"tcp://{where}:5557", events_network="private", events_tokens=tokens)
        with pytest.raises(EventsError, match="no address of a private network"):
            endpoints(pool, run_dir)
        assert endpoints(replace(pool, events_network="any"), run_dir).replay == f"tcp://{where}:5558"


@pytest.mark.parametrize("where", ["10.1.2.3", "192.168.0.9", "172.16.4.4", "127.0.0.1", "[fd00::1]", "[::1]"])
def test_a_private_network_may_be_told_everything_on_the_operators_word(run_dir: Path, where: str) -> None:
    """And with keys no word is needed."""
    pool = KvstoreSettings(events=f"tcp://{where}:5557", events_tokens="all")
    for trusted in (replace(pool, events_network="private"), replace(pool, events_curve="/keys")):
        assert endpoints(trusted, run_dir).live == f"tcp://{where}:5557"


def test_a_kvstore_says_why_it_binds_nothing(run_dir: Path) -> None:
    """One line on stderr, exit status 1."""
    process = Kvstore(run_dir, "--events=tcp://127.0.0.1:5557", "--events-tokens=all").start(wait=False)

    assert process.process.wait(60) == 1
    assert process.end(0) == 1
    assert "events_tokens" in (run_dir / "log").read_text()


def test_the_replay_port_follows_the_live_one(run_dir: Path) -> None:
    """A loopback address gives both."""
    found = endpoints(KvstoreSettings(events="tcp://127.0.0.1:5557"), run_dir)

    assert (found.live, found.replay) == ("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5558")
