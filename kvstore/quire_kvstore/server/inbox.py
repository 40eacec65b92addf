"""Inbox: tasks received and not yet executed, one queue a connection, served in turn.

One thread executes everything, so a peer that sends without waiting could make all others wait: ten thousand requests
of one engine, read in the order of arrival, are half a second in which no other is answered. Here each connection has
its own queue and gives one request a round. A queue is short: a client that follows the protocol has at most a window
of ordered requests in flight, so what does not fit is refused at once (``BUSY``) and costs no memory.

Invariants: requests of one connection come out in the order they came in; a queue that is empty is forgotten.
"""

from __future__ import annotations

from collections import deque

from .task import Task

MAX_QUEUED = 64


class Inbox:
    """Queues of at most ``most`` tasks each."""

    def __init__(self, most: int = MAX_QUEUED) -> None:
        self._most = most
        self._queues: dict[bytes, deque[Task]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def put(self, task: Task) -> bool:
        """Queue a task; False, and nothing is kept, if its connection has too many waiting."""
        queue = self._queues.setdefault(task.peer, deque())
        if len(queue) >= self._most:
            return False
        queue.append(task)
        return True

    def put_back(self, task: Task) -> None:
        """Give back what :meth:`round` gave: it is its connection's next one again."""
        self._queues.setdefault(task.peer, deque()).appendleft(task)

    def round(self) -> list[Task]:
        """The oldest task of each connection that has one."""
        tasks = [queue.popleft() for queue in self._queues.values()]
        self._queues = {peer: queue for peer, queue in self._queues.items() if queue}
        return tasks
