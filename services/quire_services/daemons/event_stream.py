"""The event stream of a kvstore as its configuration asks for it: its form, its numbers and its keys."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import structlog

from quire_kv import Events
from quire_kvstore.events.catalogue import Form
from quire_kvstore.events.curve import Curve, read_curve
from quire_kvstore.events.errors import EventsError
from quire_kvstore.events.numbers import Numbers
from quire_kvstore.events.publisher import Publisher
from quire_kvstore.host.state_dir import StateDir, StateError
from quire_kvstore.server.service import Service
from quire_kvstore.sharing.change_log import Journal
from quire_services.config.settings import KvstoreSettings

from .event_address import endpoints

TENANTS_NAMED = "named"
NUMBERS = "event_numbers"  # a document in the state directory
SWITCH_INTERVAL_S = 0.0005
log = structlog.get_logger()


@contextmanager
def event_stream(pool: KvstoreSettings, service: Service, run_dir: Path) -> Iterator[Publisher | None]:
    """The event stream of a service that has done nothing yet, if there is to be one. Raises EventsError."""
    if not pool.events:
        yield None
        return
    where, layout = endpoints(pool, run_dir), service.layout
    named = pool.events_tenants == TENANTS_NAMED
    form = Form(layout.block_size, layout.adapter, pool.events_tokens, pool.events_hashes, service.root_key, named)
    # What the publisher computes must not keep the store's thread waiting for the interpreter.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    numbers, curve = _numbers(service.state_dir), _curve(pool.events_curve)
    with closing(Publisher(where, pool.events_topic, form, numbers, curve)) as publisher:
        service.events = Events(where.live, where.replay, pool.events_topic, pool.events_tokens, pool.events_hashes)
        service.state.index.journal = Journal()
        yield publisher


def _curve(folder: str) -> Curve | None:
    """The keys in a directory, if one is named. Raises EventsError."""
    return read_curve(Path(folder)) if folder else None


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
