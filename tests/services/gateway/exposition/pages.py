"""Pages of metrics, scraped and taken apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from quire_proto.client.client import KVReader
from quire_proto.gateway_link import Load
from quire_proto.messages import Stats
from quire_proto.wire.histogram import Distribution
from tests.support.children import holding_client
from tests.support.gateway import GatewayProcess
from tests.support.kvstore import Kvstore
from tests.support.waits import wait_for

COUNTERS = {
    "steps": 11, "messages": 5, "requests": 3, "prompt_tokens": 90, "queried_tokens": 80, "hit_tokens": 48,
    "computed_tokens": 60, "generated_tokens": 21, "preemptions": 2,
}  # fmt: skip
QUEUED = Distribution((0.3, 1.0), (2, 1, 0), 0.75)
LOAD = Load(True, 3, 2, COUNTERS, times={"queue": QUEUED, "prefill": QUEUED})
FOLLOWER = {"version": 1_796_000_000_000_001, "look_age_s": 2.5, "failures": {"store": 3}, "shares": {"acme": 7}}
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(text: str) -> Series:
    """Every sample of a page; one that is there twice fails."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Series, name: str, **labels: str) -> float:
    """One sample."""
    return found[name, tuple(sorted(labels.items()))]


@dataclass
class Stack:
    """A gateway with an admin port, and a kvstore beside it."""

    gateway: GatewayProcess
    kvstore: Kvstore
    admin: httpx.Client

    def scrape(self, path: str = "") -> Series:
        """A page of the inference port; one that is refused since the kvstore was late is asked for again."""
        answer = wait_for(lambda: self._page("/metrics" + path), "a page")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        return series(answer.text)

    def _page(self, path: str) -> httpx.Response | None:
        answer = self.gateway.http.get(path)
        return None if answer.status_code == 503 else answer

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A client holds blocks, and the pages have them: an answer of the kvstore serves all for a quarter second."""
        with holding_client(self.gateway.run_dir):
            attached = self.stats().counters["attached"]
            wait_for(lambda: value(self.scrape("/kvstore"), "quire_kvstore_attached_total") == attached, "it is shown")
            yield

    def stats(self) -> Stats:
        """What the kvstore says when asked directly."""
        with KVReader(self.gateway.run_dir) as reader:
            return reader.stats()
