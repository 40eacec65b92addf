"""A canary in the pool: a write to a block after it was given to another session is seen.

A session of its own that takes free blocks, fills them with one byte value, watches them for a while, and gives them
back, over and over. The blocks are those that aborted requests and killed engines have just lost, so a write that
arrives late lands in the pattern. It attaches again when the kvstore is lost. Ends when its stdin does, and prints what
it saw as one JSON object.

    python -m bench.gpu.processes.canary RUN_DIR
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.report.figures import say
from quire_engine.kv.attach import arena_of, gpu_uuid, quiesce
from quire_kv import KVClient, NoSpace, QuireError
from quire_proto.wire.u32 import pack_u32, unpack_u32

SHARE = 0.4  # of the pool at a time
HOLD_S = 0.15
PAUSE_S = 0.02
AGAIN_S = 0.1


class Canary:
    """What it saw: cycles, blocks filled, boots lived through, and for each block that changed how long after."""

    def __init__(self) -> None:
        self.cycles = self.blocks = self.refused = 0
        self.boots: set[bytes] = set()
        self.changed: list[dict[str, float]] = []

    def cycle(self, client: KVClient, arena: torch.Tensor) -> None:
        """Take blocks, fill, watch, give back. ``arena`` as bytes."""
        count = max(1, int(SHARE * client.num_blocks))
        tokens = [random.randrange(1 << 16) for _ in range(count * client.block_size)]
        digests = client.chain("canary", pack_u32(tokens)).digests()
        try:
            answer = client.allocate(sequence=1, tenant="canary", tokens=len(tokens), digests=digests)
        except NoSpace:
            self.refused += 1
            time.sleep(PAUSE_S)
            return
        blocks = torch.tensor(unpack_u32(answer.blocks), device=arena.device)
        value = random.randrange(1, 255)
        arena[:, :, :, blocks] = value
        quiesce(arena.device)
        began = time.monotonic()
        while (after := time.monotonic() - began) < HOLD_S:
            wrong = (arena[:, :, :, blocks] != value).flatten(4).any(-1).any(0).any(0).any(0)
            if bool(wrong.any()):
                self.changed += [{"block": int(b), "after_s": after} for b in blocks[wrong].tolist()]
                break
            time.sleep(PAUSE_S)
        self.cycles += 1
        self.blocks += count
        client.free([1])


@contextmanager
def attached(run_dir: str) -> Iterator[tuple[KVClient, torch.Tensor]]:
    """A session and its arena as bytes; the arena is let go before the session is closed."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    client = KVClient(run_dir, name=f"canary-{os.getpid()}", gpu_uuid=gpu_uuid(device), timeout=10.0)
    held = [arena_of(client).view(torch.uint8)]
    mapped_on = held[0].device
    try:
        yield client, held[0]
    finally:
        quiesce(mapped_on)
        held.clear()
        client.close()


def main() -> int:
    """Watch until stdin ends; 1 if a block changed."""
    seen, run_dir = Canary(), sys.argv[1]
    while not _told_to_stop(0):
        try:
            with attached(run_dir) as (client, arena):
                seen.boots.add(client.boot)
                while not (client.lost.is_set() or _told_to_stop(0)):
                    seen.cycle(client, arena)
                del arena
        except (QuireError, OSError) as exc:
            say(f"canary: {exc}")
            _told_to_stop(AGAIN_S)
    print(
        json.dumps(
            {
                "cycles": seen.cycles,
                "blocks_watched": seen.blocks,
                "refused": seen.refused,
                "boots": len(seen.boots),
                "changed": seen.changed,
            }
        )
    )
    return 1 if seen.changed else 0


def _told_to_stop(wait_s: float) -> bool:
    return bool(select.select([sys.stdin], [], [], wait_s)[0])


if __name__ == "__main__":
    raise SystemExit(main())
