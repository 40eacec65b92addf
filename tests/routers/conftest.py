"""Two hosts for all routers, each a stack of its own, whose events say all tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.clients.plays import make_model
from tests.support.ports import free_port
from tests.support.stack import Stack, running_stack

EVENTS = ("--events-tokens", "all", "--events-network", "private", "--events-tenants", "unnamed")


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Stack]]:
    """Both, with one model and an engine each."""
    model = make_model(tmp_path_factory.mktemp("routers") / "model")
    with ExitStack() as running:
        started = []
        for _ in range(2):
            flags = ("--events", f"tcp://127.0.0.1:{free_port()}", *EVENTS)
            tmp = tmp_path_factory.mktemp("host")
            started.append(running.enter_context(running_stack(tmp, model, *flags, engines=1)))
        yield started[0], started[1]


KEYS = """
[[tenants]]
name = "atlas"
keys = ["sk-atlas-0123456789abcdef"]
[[tenants]]
name = "borea"
keys = ["sk-borea-0123456789abcdef"]
"""


@pytest.fixture(scope="session")
def keyed_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Stack]]:
    """Two more, of two tenants."""
    model = make_model(tmp_path_factory.mktemp("keyed") / "model")
    with ExitStack() as running:
        started = []
        for _ in range(2):
            flags = ("--events", f"tcp://127.0.0.1:{free_port()}", *EVENTS)
            tmp = tmp_path_factory.mktemp("keyed_host")
            started.append(running.enter_context(running_stack(tmp, model, *flags, engines=1, config=KEYS)))
        yield started[0], started[1]
