"""The publisher's sockets: numbers, gaps and replays, requests that are none, readers that do not read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from quire_kvstore.events.catalogue import Form
from quire_kvstore.events.errors import EventsError
from quire_kvstore.events.numbers import AT_ONCE, Numbers
from quire_kvstore.events.publisher import Endpoints, Publisher
from quire_kvstore.sharing.change_log import Journal, Stored
from tests.kvstore.events.subscriber import END, AllBlocksCleared, BlockRemoved, Subscriber, View
from tests.support.waits import DEADLINE_S, wait_for

FORM = Form(4, "", "none", "bytes", bytes(32))


class Stream:
    """A publisher, and a store's thread that only enters names."""

    def __init__(self, folder: Path, topic: str = "", **options: Any) -> None:
        self.where = Endpoints(f"ipc://{folder}/live", f"ipc://{folder}/replay")
        self.publisher = Publisher(self.where, topic, FORM, **options)
        self.topic, self.journal, self.names = topic, Journal(), 0
        self.subscribers: list[Subscriber] = []

    def subscribe(self, hwm: int = 1000) -> Subscriber:
        self.subscribers.append(Subscriber(self.where.live, self.where.replay, self.topic, hwm))
        return self.subscribers[-1]

    def store(self, count: int) -> None:
        """Chains of one block, collected one by one so that each is a batch of its own."""
        for _ in range(count):
            self.names += 1
            name = self.names.to_bytes(32, "big")
            self.journal.stored([Stored(name, bytes(32), None, "acme", b"")])
            self.collect()

    def remove(self, name: int) -> None:
        self.journal.removed(name.to_bytes(32, "big"))
        self.collect()

    def collect(self) -> None:
        """Wait until the journal is handed over."""
        wait_for(
            lambda: not self.journal,
            "the publisher takes the journal",
            meanwhile=lambda: self.publisher.collect(self.journal),
        )

    @property
    def stored(self) -> set[int | bytes]:
        return {name.to_bytes(32, "big") for name in range(1, self.names + 1)}

    def close(self) -> None:
        for subscriber in self.subscribers:
            subscriber.close()
        self.publisher.close()


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[list[Stream]]:
    started: list[Stream] = []
    yield started
    for stream in started:
        stream.close()


def start(streams: list[Stream], folder: Path, **options: Any) -> Stream:
    streams.append(Stream(folder, **options))
    return streams[-1]


def test_a_subscriber_sees_what_is_stored_and_removed(streams: list[Stream], tmp_path: Path) -> None:
    """Live batches under the topic, in order, each with the next number."""
    stream = start(streams, tmp_path, topic="kv@pod@model")
    reader = stream.subscribe()
    reader.read_until(lambda view: view.parents, "a live batch", meanwhile=lambda: stream.store(1))
    stream.store(20)
    stream.remove(3)

    reader.read_until(lambda view: set(view.parents) == stream.stored - {(3).to_bytes(32, "big")}, "20 names less one")


def test_a_replay_gives_every_batch_kept_and_then_the_end(streams: list[Stream], tmp_path: Path) -> None:
    """From 0: all batches, numbers from 0 on, the first one clearing; from a later number: the rest."""
    stream = start(streams, tmp_path)
    reader = stream.subscribe()
    stream.store(5)
    reader.catch_up()
    reader.read_until(lambda view: set(view.parents) == stream.stored, "5 names")
    batches = reader.replay(0)
    numbers = [number for number, _ in batches]

    assert numbers == list(range(6))
    assert batches[0][1].events == [AllBlocksCleared()]
    assert batches[0][1].ts == pytest.approx(time.time(), abs=60)
    assert [number for number, _ in reader.replay(numbers[-2])] == numbers[-2:]
    assert reader.replay(numbers[-1] + 1) == []


def test_who_refuses_a_replay_that_leaves_numbers_out_learns_everything_live(
    streams: list[Stream], tmp_path: Path
) -> None:
    """After a request for batches that are not kept, everything is published once more; for many requests, once."""
    stream = start(streams, tmp_path, buffer=4)
    stream.store(30)
    strict = stream.subscribe()
    wait_for(lambda: strict.sub.poll(10), "a live batch", meanwhile=lambda: stream.store(1))
    strict.last = int.from_bytes(strict.sub.recv_multipart()[1], "big")
    for _ in range(5):
        assert [number > 20 for number, _ in strict.replay(0)] == [True]

    strict.read_until(lambda view: set(view.parents) == stream.stored, "all names")
    stream.store(3)
    strict.read_until(lambda view: set(view.parents) == stream.stored, "three more")
    assert sum(isinstance(event, AllBlocksCleared) for event in strict.view.log) == 1
    assert strict.gaps == 0


def test_a_stream_that_begins_again_goes_on_with_its_numbers(tmp_path: Path, streams: list[Stream]) -> None:
    """Ended in order, with the next one; killed, with one that was never taken."""
    kept: list[int] = []
    first = Stream(tmp_path, numbers=Numbers(0, kept.append))
    first.store(5)
    first.close()
    assert kept == [AT_ONCE, 7], "five batches between two that clear all"

    second = start(streams, tmp_path, numbers=Numbers(kept[-1], kept.append))
    reader = second.subscribe()
    reader.last = 6
    second.store(1)
    wait_for(lambda: reader.view.parents, "the name", meanwhile=reader.catch_up)
    assert (reader.gaps, reader.last) == (0, 8)


@pytest.mark.slow
def test_a_slow_subscriber_recovers_by_replay(streams: list[Stream], tmp_path: Path) -> None:
    """More than its socket holds goes by while it does not read; then it sees the gap and closes it."""
    stream = start(streams, tmp_path, hwm=10)
    reader = stream.subscribe(hwm=10)
    reader.read_until(lambda view: view.parents, "the first name", meanwhile=lambda: stream.store(1))
    stream.store(5000)
    reader.read_until(lambda view: set(view.parents) == stream.stored, "all names")

    assert reader.gaps, "nothing was dropped: the test proves nothing"


def test_a_gap_longer_than_what_is_kept_is_closed(streams: list[Stream], tmp_path: Path) -> None:
    """Everything that is stored comes in one batch under the newest number."""
    stream = start(streams, tmp_path, buffer=4)
    stream.store(30)
    stream.remove(1)
    reader = stream.subscribe()
    reader.catch_up()
    reader.read_until(lambda view: set(view.parents) == stream.stored - {(1).to_bytes(32, "big")}, "all names")
    ((number, batch),) = reader.replay(0)

    assert number >= reader.last  # all was told live in the meantime
    assert isinstance(batch.events[0], AllBlocksCleared)


def test_what_is_no_request_gets_the_end_only(streams: list[Stream], tmp_path: Path) -> None:
    """Wrong frames, wrong lengths, numbers of the future: an answer each, and the stream goes on."""
    stream = start(streams, tmp_path)
    reader = stream.subscribe()
    stream.store(1)
    for frames in ([b"", b"short"], [b"", b"x" * 9], [b"no", b"\0" * 8], [b""], [b"", b"\0" * 8, b"more"], [b"", END]):
        reader.dealer.send_multipart(frames)

        assert reader.answer() == [b"", b"", END, b""]
    reader.catch_up()
    reader.read_until(lambda view: set(view.parents) == stream.stored, "the stream")


def test_a_request_socket_gets_the_first_batch(streams: list[Stream], tmp_path: Path) -> None:
    """REQ adds and takes away the empty frame itself."""
    stream = start(streams, tmp_path)
    with zmq.Context() as context, context.socket(zmq.REQ) as request:
        request.setsockopt(zmq.LINGER, 0)
        request.connect(stream.where.replay)
        request.send(bytes(8))

        assert request.poll(int(DEADLINE_S * 1000))
        assert len(request.recv_multipart()) == 3


def test_one_who_asks_and_never_reads_stops_nobody(streams: list[Stream], tmp_path: Path) -> None:
    """Its answers are dropped at the socket's limit; others are served, and the store's thread never waits."""
    stream = start(streams, tmp_path, buffer=100)
    stream.store(200)
    deaf = stream.subscribe()
    for _ in range(500):
        deaf.dealer.send_multipart([b"", bytes(8)])
    reader = stream.subscribe()
    stream.store(50)
    reader.catch_up()

    reader.read_until(lambda view: set(view.parents) == stream.stored, "all names")


def test_a_publisher_that_stands_still_delays_no_store_and_loses_nothing(
    streams: list[Stream], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its thread is stuck, names go on merging in the journal; afterwards all of them are told."""
    stream = start(streams, tmp_path)
    reader = stream.subscribe()
    stuck, go_on = threading.Event(), threading.Event()
    apply = stream.publisher._catalogue.apply

    def slowly(changes: object) -> object:
        stuck.set()
        go_on.wait(DEADLINE_S)
        return apply(changes)  # type: ignore[arg-type]

    monkeypatch.setattr(stream.publisher._catalogue, "apply", slowly)
    stream.store(1)
    assert stuck.wait(DEADLINE_S)
    for number in range(2, 1000):
        name = number.to_bytes(32, "big")
        stream.journal.stored([Stored(name, bytes(32), None, "acme", b"")])
        if number % 2:
            stream.journal.removed(name)
        stream.publisher.collect(stream.journal)
    assert stream.journal, "handed over although it is not taken"
    go_on.set()
    stream.collect()
    reader.catch_up()
    even = {name.to_bytes(32, "big") for name in [1, *range(2, 1000, 2)]}

    reader.read_until(lambda view: set(view.parents) == even, "what is left of a thousand names")


def test_an_endpoint_in_use_is_a_clear_error(streams: list[Stream], tmp_path: Path) -> None:
    """It names the endpoint."""
    with zmq.Context() as context, context.socket(zmq.PUB) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(EventsError, match=str(port)):
            Publisher(Endpoints(f"tcp://127.0.0.1:{port}", f"ipc://{tmp_path}/r"), "", FORM)


def test_a_view_refuses_to_lose_what_it_never_had() -> None:
    """The reader of these tests notices a removal too many."""
    with pytest.raises(KeyError):
        View().apply([BlockRemoved([b"x"], "GPU")])
