"""Batch: some events of the stream as the payload of one message (PROTOCOL.md section 16)."""

from __future__ import annotations

from collections.abc import Iterable

import msgpack

from .catalogue import Event

EVENTS_A_BATCH = 16  # what is encoded quickly
RANK = 0  # a kvstore serves one GPU


def encode_batch(events: Iterable[Event], seconds: float) -> bytes:
    """Events as one payload, packed one by one: a thread that packs keeps the interpreter from the store's.

    ``seconds``: when they were told, by the clock of the world.
    """
    packer = msgpack.Packer(use_bin_type=True)
    parts = [packer.pack(event) for event in events]
    head = packer.pack_array_header(3), packer.pack(seconds), packer.pack_array_header(len(parts))
    return b"".join((*head, *parts, packer.pack(RANK)))
