"""EventStream: what a node's kvstore would send to routers, as bytes, from the store's own journal.

The journal, the catalogue and the encoding are the kvstore's. A message is a topic, a number of 8 bytes and a payload:
that is what is counted; the headers of ZMTP and TCP are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from quire_kvstore.events.batch import EVENTS_A_BATCH, encode_batch
from quire_kvstore.events.catalogue import Catalogue, Event, Form
from quire_kvstore.sharing.change_log import Journal

NUMBER_BYTES = 8


@dataclass(slots=True)
class Sent:
    """Totals of a stream. ``blocks``: names that were told as stored or removed."""

    messages: int = 0
    events: int = 0
    blocks: int = 0
    bytes: int = 0

    def add(self, other: Sent, sign: int = 1) -> None:
        """Add another total, or take it away."""
        self.messages += sign * other.messages
        self.events += sign * other.events
        self.blocks += sign * other.blocks
        self.bytes += sign * other.bytes


class EventStream:
    """The stream of one life of a node.

    Attributes:
        sent: totals since its beginning.
    """

    def __init__(self, form: Form, topic: str) -> None:
        self._catalogue, self._overhead = Catalogue(form), len(topic.encode()) + NUMBER_BYTES
        self.sent = Sent()

    def begin(self, now: float) -> Iterator[bytes]:
        """What every life begins with."""
        return self._messages(iter([{"type": "AllBlocksCleared"}]), now)

    def collect(self, journal: Journal, now: float) -> Iterator[bytes]:
        """Messages about what happened since the last call."""
        return self._messages(self._catalogue.apply(journal.drain()), now)

    def _messages(self, events: Iterator[Event], now: float) -> Iterator[bytes]:
        for first in events:
            batch = [first, *islice(events, EVENTS_A_BATCH - 1)]
            payload = encode_batch(batch, now)
            self.sent.messages += 1
            self.sent.events += len(batch)
            self.sent.blocks += sum(len(event.get("block_hashes", ())) for event in batch)
            self.sent.bytes += self.size(payload)
            yield payload

    def size(self, payload: bytes) -> int:
        """Bytes of a message."""
        return len(payload) + self._overhead
