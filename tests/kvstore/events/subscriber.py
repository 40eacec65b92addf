"""A reader of the event stream, written from PROTOCOL.md section 16 alone: typed structs, a live socket, replay.

The structs have the fields of that section and no others, so a field that is missing, of another type or unknown
fails the decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import zmq

from tests.support.waits import DEADLINE_S, wait_for

END = b"\xff" * 8


class Event(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """A map whose ``type`` is the name of the struct."""


class BlockStored(Event):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[str, ...] | None] | None = None


class BlockRemoved(Event):
    block_hashes: list[int | bytes]
    medium: str | None


class AllBlocksCleared(Event):
    pass


Told = BlockStored | BlockRemoved | AllBlocksCleared


class Batch(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An array of three."""

    ts: float
    events: list[Told]
    data_parallel_rank: int


class View:
    """What a router knows: each block's parent, by name; its tokens and extra keys as last told."""

    def __init__(self) -> None:
        self.parents: dict[int | bytes, int | bytes | None] = {}
        self.tokens: dict[int | bytes, list[int]] = {}
        self.keys: dict[int | bytes, tuple[str, ...] | None] = {}
        self.log: list[Told] = []

    def apply(self, events: Iterable[Told]) -> None:
        """Take events over; a removal of something unknown fails."""
        for event in events:
            self.log.append(event)
            if isinstance(event, AllBlocksCleared):
                self.parents.clear()
            elif isinstance(event, BlockRemoved):
                for name in event.block_hashes:
                    del self.parents[name]
            else:
                self._store(event)

    def _store(self, event: BlockStored) -> None:
        parent, size = event.parent_block_hash, event.block_size
        assert len(event.token_ids) in (0, size * len(event.block_hashes))
        for index, name in enumerate(event.block_hashes):
            self.parents[name] = parent
            self.tokens[name] = event.token_ids[index * size : (index + 1) * size]
            self.keys[name] = event.extra_keys[index] if event.extra_keys else None
            parent = name


class Subscriber:
    """A live socket that may be left unread, a replay socket, and the view they make."""

    def __init__(self, live: str, replay: str, topic: str = "", hwm: int = 1000) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sub, self.dealer = self._context.socket(zmq.SUB), self._context.socket(zmq.DEALER)
        self.sub.setsockopt(zmq.RCVHWM, hwm)
        self.sub.subscribe(topic)
        self.sub.connect(live)
        self.dealer.connect(replay)
        self.view, self.last, self.topic = View(), -1, topic
        self.gaps = 0

    def close(self) -> None:
        """Close both sockets."""
        self.sub.close(0)
        self.dealer.close(0)
        self._context.term()

    def replay(self, start: int) -> list[tuple[int, Batch]]:
        """All batches that are replayed from a number on."""
        self.dealer.send_multipart([b"", start.to_bytes(8, "big")])
        batches = []
        while True:
            empty, topic, number, payload = self.answer()
            assert empty == b""
            if number == END:
                assert (topic, payload) == (b"", b"")
                return batches
            assert topic == self.topic.encode()
            batches.append((int.from_bytes(number, "big"), msgspec.msgpack.decode(payload, type=Batch)))

    def answer(self) -> list[bytes]:
        """The next message of the replay socket."""
        assert self.dealer.poll(int(DEADLINE_S * 1000)), "no replay"
        return self.dealer.recv_multipart()

    def catch_up(self) -> None:
        """Apply a replay of everything after the last batch seen."""
        for number, batch in self.replay(self.last + 1):
            assert number > self.last
            self.last = number
            self.view.apply(batch.events)

    def read(self, timeout_ms: int) -> bool:
        """Apply one live batch, after a replay if some are missing; False if none came."""
        if not self.sub.poll(timeout_ms):
            return False
        topic, number, payload = self.sub.recv_multipart()
        assert topic == self.topic.encode()
        assert len(number) == 8
        found = int.from_bytes(number, "big")
        if found > self.last + 1:
            self.gaps += self.last >= 0
            self.catch_up()
        if found > self.last:
            self.last = found
            self.view.apply(msgspec.msgpack.decode(payload, type=Batch).events)
        return True

    def read_until(
        self, condition: Callable[[View], Any], what: str, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Read until the view is so, with ``meanwhile`` before each batch; fails after the deadline."""

        def read() -> None:
            meanwhile()
            self.read(100)

        wait_for(lambda: condition(self.view), what, meanwhile=read)
