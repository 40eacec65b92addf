"""A gateway with an admin port beside a kvstore with something of everything in its pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from quire_kv import KVClient, KVReader, pack_u32
from tests.support.gateway import GatewayProcess
from tests.support.kvstore import Kvstore
from tests.support.ports import free_port, listens
from tests.support.waits import wait_for

BLOCKS = 100
HOSTILE = "<img src=x onerror=alert(1)>"  # a tenant's name


@dataclass
class Planted:
    """The stack, the operator's client, and the engine whose sequences are planted."""

    gateway: GatewayProcess
    kvstore: Kvstore
    http: httpx.Client
    url: str
    token: str
    first: KVClient

    def reader(self) -> KVReader:
        """One who asks the kvstore itself."""
        return KVReader(self.gateway.run_dir)


@pytest.fixture(scope="module")
def planted(model: Path) -> Iterator[Planted]:
    """Three sequences share a prompt, one of them a publication's; something is cached, something claimed."""
    port = free_port()
    gateway = GatewayProcess(model, f"--admin-port={port}").wait()
    kvstore = Kvstore(gateway.run_dir, blocks=BLOCKS).start()
    wait_for(lambda: listens(port), "the admin port is open")
    gateway.engine("engine-1")
    token = (gateway.run_dir / "admin.token").read_text().strip()
    url = f"http://127.0.0.1:{port}"
    headers = {"authorization": f"Bearer {token}"}
    with (
        httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as http,
        KVClient(gateway.run_dir, name="engine-1") as first,
    ):
        plant(first)
        yield Planted(gateway, kvstore, http, url, token, first)
    assert kvstore.end(15) == 0
    assert gateway.stop() == 0


def plant(client: KVClient) -> None:
    """Sequences 1 to 3 share 5 blocks of ``acme``, 4 is the publication's first, 5 cached 3 blocks, 6 claims 4."""
    shared = list(range(21))
    chain = client.chain("acme", pack_u32(shared))
    client.allocate(1, "acme", len(shared), chain.digests())
    client.fill(1, len(shared))
    client.seal(1, 0, chain.digests())
    for number in (2, 3):
        client.allocate(number, "acme", len(shared), chain.digests())
    published = client.match(HOSTILE, pack_u32(range(12)))
    assert published
    client.allocate(4, HOSTILE, 12, publication=published.id, publication_generation=published.generation)
    client.fill(4, 12)
    other = client.chain("globex", pack_u32(list(range(50, 62))))
    client.allocate(5, "globex", 12, other.digests())
    client.fill(5, 12)
    client.seal(5, 0, other.digests())
    client.free([5])
    new = client.chain("globex", pack_u32(list(range(70, 87))))
    client.allocate(6, "globex", 17, new.digests(), may_wait=1)
