"""Fixtures for the tests of the client library: real kvstores, and proxies in front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.proto.kvstore import started
from tests.proto.proxy import Proxy
from tests.support.kvstore import Kvstore

# Examples share two cores with real processes: their time says nothing.
settings.register_profile("processes", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("processes")


@pytest.fixture
def start_kvstore(tmp_path: Path) -> Iterator[Callable[..., Kvstore]]:
    """Starts kvstores that end with the test."""
    kvstores: list[Kvstore] = []

    def start(lease_ms: int = 10_000) -> Kvstore:
        kvstores.append(started(tmp_path / f"run{len(kvstores)}", lease_ms))
        return kvstores[-1]

    yield start
    for kvstore in kvstores:
        kvstore.stop()


@pytest.fixture(scope="module")
def shared_kvstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kvstore]:
    """One kvstore for the tests of a module that do not disturb it."""
    kvstore = started(tmp_path_factory.mktemp("kvstore") / "run")
    yield kvstore
    kvstore.stop()


@pytest.fixture
def proxy_to(tmp_path: Path) -> Iterator[Callable[[Kvstore], Proxy]]:
    """Makes proxies that end with the test."""
    proxies: list[Proxy] = []

    def make(kvstore: Kvstore) -> Proxy:
        proxies.append(Proxy(kvstore, tmp_path / f"proxy{len(proxies)}"))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()
