"""A pool that fills a GPU: what a kvstore process makes of the memory that is free and of what engines will need."""

from __future__ import annotations

import json

import pytest

from quire_kvstore.host.pool_size import DEVICE_FRACTION
from tests.kvstore.host.cuda_arena.stack import BLOCKS, LAYOUT, RecordedKvstore

MIB = 1 << 20
FREE, ENGINES = 1024 * MIB, 3
NEED = {"fixed": 60 * MIB, "token": 1024, "sequence": 4096, "tokens": 8192, "sequences": 256, "weights": 50 * MIB}


@pytest.mark.process
@pytest.mark.parametrize(("shared", "copies"), [("true", 1), ("false", ENGINES)])
def test_a_pool_leaves_room_for_what_engines_will_need(
    kvstore: RecordedKvstore, monkeypatch: pytest.MonkeyPatch, shared: str, copies: int
) -> None:
    """Their largest steps, graphs and contexts, their weights once or in each, and a margin; the rest are blocks."""
    monkeypatch.setenv("QUIRE_SERVE_ENGINES", str(ENGINES))
    prepared = kvstore.run_dir / "prepared.json"
    prepared.write_text(json.dumps({**json.loads(prepared.read_text()), "device_need": NEED}))
    kvstore._command.remove(f"--blocks={BLOCKS}")
    kvstore._command.append(f"--share-weights={shared}")
    kvstore.start_with("cuda-vmm-fd", total=FREE)
    engines = ENGINES * (10 * MIB + 8192 * 1024 + 256 * 4096) + copies * 50 * MIB
    assert kvstore.stats().num_blocks == int((FREE - engines) * DEVICE_FRACTION) // LAYOUT.block_bytes
    assert f"{FREE:,} bytes free" in kvstore.events("kvstore_started")[0]["sized_by"]
    assert f"less {engines:,} for engines" in kvstore.events("kvstore_started")[0]["sized_by"]
