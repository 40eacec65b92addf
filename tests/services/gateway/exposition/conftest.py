"""A gateway with an admin port and a kvstore, for all tests of a file: another's never said anything to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.services.gateway.exposition.pages import Stack
from tests.support.gateway import GatewayProcess
from tests.support.kvstore import Kvstore
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def stack(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    port, config = free_port(), tmp_path_factory.mktemp("config") / "quire.toml"
    config.write_text('[[tenants]]\nname = "acme"\nkeys = ["sk-acme"]\n')
    gateway = GatewayProcess(model, f"--admin-port={port}", "--hold-s=5", config=config).wait()
    gateway.http.headers["authorization"] = "Bearer sk-acme"
    kvstore = Kvstore(gateway.run_dir).start()
    token = (gateway.run_dir / "admin.token").read_text().strip()
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30, trust_env=False) as admin:
        yield Stack(gateway, kvstore, admin)
    kvstore.stop()
    assert gateway.stop() == 0
