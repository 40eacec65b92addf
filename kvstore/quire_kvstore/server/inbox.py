"""Inbox: requests received and not yet executed, one queue a connection, served in turn.

One thread executes everything, so whoever sends without waiting could make all others wait: ten thousand requests of
one engine, read in the order of arrival, are half a second in which nobody else is answered. Here each connection has
its own queue and gives one request a round. A queue is short: a client that follows the protocol has at most a window
of ordered requests in flight, so what does not fit is refused at once (``BUSY``) and costs no memory.

Invariants: requests of one connection come out in the order they came in; a queue that is empty is forgotten.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

QUEUED = 64


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a connection, and when it was taken from the socket (ms)."""

    identity: bytes
    frames: list[bytes]
    received_ms: int


class Inbox:
    """Queues of at most ``most`` messages each."""

    def __init__(self, most: int = QUEUED) -> None:
        self._most = most
        self._queues: dict[bytes, deque[Message]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def put(self, message: Message) -> bool:
        """Queue a message; False, and nothing is kept, if its connection has too many waiting."""
        queue = self._queues.setdefault(message.identity, deque())
        if len(queue) >= self._most:
            return False
        queue.append(message)
        return True

    def put_back(self, message: Message) -> None:
        """Give back what :meth:`round` gave: it is its connection's next one again."""
        self._queues.setdefault(message.identity, deque()).appendleft(message)

    def round(self) -> list[Message]:
        """The oldest message of each connection that has one."""
        messages = [queue.popleft() for queue in self._queues.values()]
        self._queues = {identity: queue for identity, queue in self._queues.items() if queue}
        return messages
