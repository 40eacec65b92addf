"""PublicationPrefill: pending publications, computed without a client's request.

After a restart of the kvstore, or when a prompt is published, the record is pending: requests that begin with it work,
but each computes it. So every engine offers to compute what is pending, through the same queue as all requests and
behind them all; the kvstore lets exactly one do so. The others look again later, for the one it chose may die.

Such a sequence belongs to a request without id and tenant: its one sampled token is dropped, and its blocks are
charged to the share domain.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

import structlog

from quire_engine.kv.kv_session import KvSession
from quire_engine.sequences.sequence import BACKGROUND, Request, Sequence
from quire_kv import DomainChain, NotFound, Publication
from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import unpack_u32

from .scheduler import Scheduler

LOOK_AGAIN_S = 1.0
PENDING = "pending"

log = structlog.get_logger()


class PublicationPrefill:
    """Keeps the publications of one session computed.

    Args:
        max_model_len: longest sequence, in tokens.
        next_arrival: gives sequences their place in the order of arrival.
    """

    def __init__(
        self, scheduler: Scheduler, kv: KvSession, max_model_len: int, next_arrival: Callable[[], int]
    ) -> None:
        self._scheduler, self._kv = scheduler, kv
        self._max_model_len, self._next_arrival = max_model_len, next_arrival
        self._generation = -1
        self._look_at = 0.0
        self._pending: list[Publication] = []

    def queue_pending(self) -> None:
        """Queue what is pending and not yet queued; asks the kvstore only if the list moved or something is open."""
        client = self._kv.client
        if client.publications_stale:
            client.refresh_publications()
        if client.publications.generation != self._generation:
            self._generation = client.publications.generation
            self._pending = [p for p in client.publications if p.state == PENDING and self._fits(p)]
            self._look_at = 0.0
        if not self._pending or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_AGAIN_S
        self._pending = [p for p in self._pending if not self._computed(p)]
        queued = {s.request.publication for s in self._scheduler.of_request("")}
        for publication in self._pending:
            if publication.id not in queued:
                self._scheduler.add(self._sequence(publication))

    def _fits(self, publication: Publication) -> bool:
        fits = len(publication.tokens) // 4 < self._max_model_len
        if not fits:
            log.warning("publication_too_long", publication=publication.id, tokens=len(publication.tokens) // 4)
        return fits

    def _sequence(self, publication: Publication) -> Sequence:
        tokens: array[int] = unpack_u32(publication.tokens)
        request = Request(
            id="",
            tenant="",
            prompt=publication.tokens,
            sampling=Sampling(max_tokens=1, temperature=0.0),
            n=1,
            priority=BACKGROUND,
            emitted=array("I"),
            stop_ids=frozenset(),
            publication=publication.id,
            publication_generation=publication.generation,
            longest=self._max_model_len,
        )
        return Sequence(0, request, 0, tokens, DomainChain(b"", self._kv.block_size), self._next_arrival())

    def _computed(self, publication: Publication) -> bool:
        """Whether it is ready, or gone."""
        try:
            return self._kv.client.lookup(publication=publication.id).tokens > 0
        except NotFound:
            return True
