"""Declaring: administration puts its declarations on the disk, aside, while the store serves.

A flush takes as long as the disk likes, and there is one thread that answers all. So the handlers of
administration are generators: one yields ``WAITING`` until another thread has written the document, and only then
changes the store and answers. The order stays: durable, then true, then said.

Invariant: one declaration at a time. What a handler judged before it saved (groups, publications, quotas) is then still
so when it goes on, for only declarations change it; what requests change meanwhile it judges again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from quire_kvstore.errors import Refusal
from quire_kvstore.host.state_dir import StateError
from quire_kvstore.ops.slices import Slices

from .service import Service
from .task import Task

BLOCKED = True  # what is yielded: there is no point in going on at once
Body = TypeVar("Body")
Answer = TypeVar("Answer")
Handler = Callable[[Service, Task, Body], Slices[Answer]]


def one_at_a_time(handler: Handler[Body, Answer]) -> Handler[Body, Answer]:
    """A handler that begins when no other declaration is on its way to the disk."""

    @wraps(handler)
    def waits(service: Service, task: Task, body: Body) -> Slices[Answer]:
        while service.declaring:
            yield BLOCKED
        service.declaring = True
        try:
            return (yield from handler(service, task, body))
        finally:
            service.declaring = False

    return waits


def saved(service: Service, save: Callable[[], None]) -> Slices[None]:
    """Let the disk's thread save; returns when it is done, raises Refusal if that failed."""
    done = service.disk.submit(save)
    while not done.done():
        yield BLOCKED
    try:
        done.result()
    except StateError as exc:
        raise Refusal("CONFLICT", str(exc)) from None
