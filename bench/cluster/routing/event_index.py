"""EventIndex: what a router knows of caches, from the bytes of event streams alone.

As routers for vLLM do it: an event names blocks by numbers of the node's and tells their tokens; the router hashes the
tokens itself, each block behind its parent, so that the blocks of a prompt can be looked for. For each such hash it
keeps the nodes that have it, as a set of bits.

    overlap(prompt) = leading blocks of the prompt that a node has

Invariant: a bit is set only while the node has named a block of that hash and not taken it back.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from quire_proto.wire.u32 import pack_u32

HASH_BYTES = 8
ROOT = bytes(HASH_BYTES)


class EventIndex:
    """The caches of ``nodes`` nodes.

    Attributes:
        orphans: blocks that were told with a parent that is not known: they cannot be found.
    """

    def __init__(self, nodes: int, block_size: int) -> None:
        self._nodes, self._each = nodes, 4 * block_size
        self._have: dict[bytes, int] = {}
        self._names: list[dict[int, bytes]] = [{} for _ in range(nodes)]
        self.orphans = 0

    def __len__(self) -> int:
        """Different blocks."""
        return len(self._have)

    @property
    def names(self) -> int:
        """Blocks, each counted for every node that has it."""
        return sum(map(len, self._names))

    def apply(self, node: int, payload: bytes) -> None:
        """One message of a node."""
        _, events, _ = msgpack.unpackb(payload)
        for event in events:
            if event["type"] == "BlockStored":
                self._stored(node, event)
            elif event["type"] == "BlockRemoved":
                for name in event["block_hashes"]:
                    self._remove(node, name)
            else:
                self.clear(node)

    def clear(self, node: int) -> None:
        """A node has nothing."""
        for name in list(self._names[node]):
            self._remove(node, name)

    def overlap(self, tokens: bytes) -> NDArray[np.int64]:
        """Leading blocks of packed tokens that are cached, by node."""
        found = np.zeros(self._nodes, np.int64)
        having, parent = (1 << self._nodes) - 1, ROOT
        for depth, start in enumerate(range(0, len(tokens) - self._each + 1, self._each)):
            parent = _hash(parent, tokens[start : start + self._each])
            going_on = self._have.get(parent, 0) & having
            if going_on != having:
                found[self._numbers(having ^ going_on)] = depth
                having = going_on
                if not having:
                    return found
        found[self._numbers(having)] = len(tokens) // self._each
        return found

    def _stored(self, node: int, event: dict[str, Any]) -> None:
        names = self._names[node]
        above = event["parent_block_hash"]
        parent = ROOT if above is None else names.get(above)
        tokens = pack_u32(event["token_ids"])
        if parent is None or len(tokens) != self._each * len(event["block_hashes"]):
            self.orphans += len(event["block_hashes"])
            return
        bit = 1 << node
        for place, name in enumerate(event["block_hashes"]):
            parent = _hash(parent, tokens[place * self._each : (place + 1) * self._each])
            if name in names:  # told again, behind another parent
                self._remove(node, name)
            names[name] = parent
            self._have[parent] = self._have.get(parent, 0) | bit

    def _remove(self, node: int, name: int) -> None:
        known = self._names[node].pop(name, None)
        if known is None:
            return
        left = self._have.get(known, 0) & ~(1 << node)
        if left:
            self._have[known] = left
        else:
            self._have.pop(known, None)

    def _numbers(self, bits: int) -> NDArray[np.int64]:
        """Which bits are set."""
        packed = np.frombuffer(bits.to_bytes((self._nodes + 7) // 8, "little"), np.uint8)
        return np.flatnonzero(np.unpackbits(packed, bitorder="little"))


def _hash(parent: bytes, block: bytes) -> bytes:
    return blake2b(parent + block, digest_size=HASH_BYTES).digest()
