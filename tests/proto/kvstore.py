"""The kvstore that the tests of the client library talk to: two layers and heads, and a published prompt."""

from __future__ import annotations

from pathlib import Path

from quire_proto.wire.layout import Layout
from tests.support.kvstore import Kvstore

LAYOUT = Layout("tiny", "ab12", "{}", "", "float32", 4, 2, 2, 8)
PUBLISHED = [{"id": "system", "domain": "public", "tokens": list(range(100, 110))}]
NO_KILL = "--fence-grace-ms=600000"  # the client under test is this process


def started(run_dir: Path, lease_ms: int = 10_000) -> Kvstore:
    """One that serves."""
    flags = (f"--lease-ms={lease_ms}", NO_KILL)
    return Kvstore(run_dir, *flags, blocks=32, layout=LAYOUT, published=PUBLISHED).start()
