"""The event stream of a kvstore as its configuration asks for it: where it is bound, and what it may publish there.

A PUB socket authenticates no subscriber: every process that reaches it can listen. In the run directory (``ipc``) those
are the stack user's own, which can read the pool itself; at a loopback address, those of every user of the host. So the
tokens of all tenants are published in the run directory only, and no address that other hosts reach is bound: a router
elsewhere is fed by a relay on this host, which may encrypt and authenticate as it likes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import structlog

from quire_kv import Events
from quire_kvstore.events.catalogue import ALL_TOKENS, Form
from quire_kvstore.events.numbers import Numbers
from quire_kvstore.events.publisher import Endpoints, EventsError, Publisher
from quire_kvstore.host.state_dir import StateDir, StateError
from quire_kvstore.server.service import Service
from quire_kvstore.sharing.change_log import Journal
from quire_services.config.settings import KvstoreSettings
from quire_services.config.socket_names import EVENTS_SOCKET, REPLAY_SOCKET

IPC = "ipc"
NUMBERS = "event_numbers"  # a document in the state directory
SWITCH_INTERVAL_S = 0.0005
log = structlog.get_logger()
_LOOPBACK = re.compile(r"tcp://(127(?:\.\d{1,3}){3}):(\d{1,5})")


def endpoints(pool: KvstoreSettings, run_dir: Path) -> Endpoints:
    """Where both sockets are bound. Raises EventsError for a place that may not be."""
    if pool.events == IPC:
        return Endpoints(f"ipc://{run_dir / EVENTS_SOCKET}", f"ipc://{run_dir / REPLAY_SOCKET}")
    address = _LOOPBACK.fullmatch(pool.events)
    if address is None or not 0 < int(address[2]) < 65535:
        raise EventsError(
            f"kvstore.events: {pool.events[:80]!r} is neither ipc nor tcp://127.0.0.1:PORT; the port after it is for "
            "replays. For other hosts, relay the stream"
        )
    if pool.events_tokens == ALL_TOKENS:
        raise EventsError("kvstore.events_tokens: every user of this host could read all prompts: set events to ipc")
    host, port = address[1], int(address[2])
    return Endpoints(f"tcp://{host}:{port}", f"tcp://{host}:{port + 1}")


@contextmanager
def event_stream(pool: KvstoreSettings, service: Service, run_dir: Path) -> Iterator[Publisher | None]:
    """The event stream of a service that has done nothing yet, if there is to be one. Raises EventsError."""
    if not pool.events:
        yield None
        return
    where, layout = endpoints(pool, run_dir), service.layout
    form = Form(layout.block_size, layout.adapter, pool.events_tokens, pool.events_hashes, service.root_key)
    # What the publisher computes must not keep the store's thread waiting for the interpreter.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with closing(Publisher(where, pool.events_topic, form, _numbers(service.state_dir))) as publisher:
        service.events = Events(where.live, where.replay, pool.events_topic, pool.events_tokens, pool.events_hashes)
        service.state.index.journal = Journal()
        yield publisher


def _numbers(documents: StateDir | None) -> Numbers:
    """Numbers that go on where those of an earlier life ended. Raises EventsError."""
    if documents is None:
        return Numbers()
    kept = (documents.read(NUMBERS) or {}).get("next", 0)
    if type(kept) is not int or not 0 <= kept < 1 << 62:
        raise EventsError(f"{documents.path}/{NUMBERS}.json: 'next' must be a number; move the file away")

    def promise(number: int) -> None:
        try:
            documents.write(NUMBERS, {"next": number})
        except StateError as error:  # a stream that may repeat numbers is better than none
            log.warning("event_numbers_not_kept", reason=str(error))

    return Numbers(kept, promise)
