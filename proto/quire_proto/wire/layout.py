"""Layout: the ABI between kvstore, kernels and engines.

Two processes may share a pool only if their layouts are equal: same weights, same RoPE, same dtype, same strides.
The kvstore holds one, every engine computes its own from the model it loaded, and ``attach`` compares them field by
field, but for the model's name. Elements of the arena are addressed as

    offset(layer, kv, head, block, slot, d) = layer*S0 + kv*S1 + head*S2 + block*S3 + slot*S4 + d      (elements)

with kv = 0 for keys and 1 for values. By default blocks lie next to each other inside one (layer, kv, head)
plane, so that a run of consecutive block ids is one contiguous [tokens, head_dim] matrix: attention reads it
without a gather.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

E4M3 = "float8_e4m3fn"
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, E4M3: 1}


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything two users of one pool must agree on.

    Attributes:
        model: name of the model, for people; not compared.
        weights: identity of configuration and weights (hex).
        rope: RoPE parameters as fixed at load, canonical JSON.
        adapter: adapter identity, "" for none.
        dtype: element type of keys and values as they are stored.
        block_size: tokens in a block.
        num_layers, num_kv_heads, head_dim: shape of keys and values.
        shard_rank, shard_size: tensor-parallel shard; only 0 of 1 is accepted so far.
        scales: identity of what e4m3 elements are multiplied by, hex; "" if that is 1, or for any other dtype.
    """

    model: str
    weights: str
    rope: str
    adapter: str
    dtype: str
    block_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    shard_rank: int = 0
    shard_size: int = 1
    scales: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"dtype {self.dtype!r} is none of {', '.join(DTYPE_BYTES)}")
        if self.scales and self.dtype != E4M3:
            raise ValueError(f"scales are for {E4M3} alone, not for {self.dtype}")
        for name in ("block_size", "num_layers", "num_kv_heads", "head_dim", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: K and V of all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.block_size * self.head_dim * DTYPE_BYTES[self.dtype]

    def arena_bytes(self, num_blocks: int) -> int:
        """Bytes of an arena of ``num_blocks`` blocks."""
        return self.block_bytes * num_blocks

    def shape(self, num_blocks: int) -> tuple[int, int, int, int, int, int]:
        """Arena shape (layer, kv, head, block, slot, d), C-contiguous."""
        return (self.num_layers, 2, self.num_kv_heads, num_blocks, self.block_size, self.head_dim)

    def strides(self, num_blocks: int) -> tuple[int, int, int, int, int, int]:
        """Strides of :meth:`shape` in elements."""
        s4 = self.head_dim
        s3 = s4 * self.block_size
        s2 = s3 * num_blocks
        s1 = s2 * self.num_kv_heads
        return (s1 * 2, s1, s2, s3, s4, 1)

    def differences(self, other: Layout) -> list[str]:
        """Names of the fields that differ, the model's display name left out."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if name != "model" and mine[name] != theirs[name]]

    def fingerprint(self) -> str:
        """Short identity of the layout, for logs and status pages (16 hex digits)."""
        text = "\n".join(f"{k}={v}" for k, v in sorted(asdict(self).items()) if k != "model")
        return hashlib.sha256(text.encode()).hexdigest()[:16]
