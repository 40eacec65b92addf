"""How long a sequence the pool can hold: all but what publications pin, and one block to copy to."""

from __future__ import annotations

from quire_engine.sequences.sequence import Request
from quire_kv import KVClient


def longest(client: KVClient, request: Request) -> int:
    """Tokens of the longest sequence the pool can hold for this request, which begins with its own publication."""
    return _beside(client, sum(blocks for name, blocks in _pinned(client).items() if name != request.publication))


def bounds(client: KVClient) -> tuple[int, int]:
    """:func:`longest` of a request without a publication, and of the one that has the largest."""
    pinned = _pinned(client).values()
    return _beside(client, sum(pinned)), _beside(client, sum(pinned) - max(pinned, default=0))


def _pinned(client: KVClient) -> dict[str, int]:
    """Blocks that each publication pins."""
    size = 4 * client.block_size
    return {publication.id: -(-len(publication.tokens) // size) for publication in client.publications}


def _beside(client: KVClient, blocks: int) -> int:
    """Tokens of a sequence beside so many blocks, less one block to copy to."""
    return max(0, (client.num_blocks - blocks - 1) * client.block_size)
