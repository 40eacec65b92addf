"""Digests: the name of a full block in the prefix index.

A digest is a keyed BLAKE2b-256 (RFC 7693) over the parent's digest and the block's tokens as little-endian u32:

    digest(i) = BLAKE2b(key=domain key, person=b"quire.digest.v1", digest(i-1) || tokens of block i)

with 32 zero bytes in place of the parent of block 0. The key is the share domain's (PROTOCOL.md section 9): a digest
computed in one domain can never equal one of another, so isolation between domains is a property of the names
themselves and not of a check that could be forgotten. The same holds within a domain for requests with a salt: it
makes another key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache

from .u32 import pack_u32

DIGEST_BYTES = 32
ROOT_PARENT = bytes(DIGEST_BYTES)
_PERSON = b"quire.digest.v1"
_SALTED = b"quire.salt.v1"


def domain_key(root_key: bytes, domain: str, generation: int) -> bytes:
    """Key of a share domain: HMAC-SHA256(root key, length-prefixed domain || generation), 32 bytes."""
    name = domain.encode()
    message = len(name).to_bytes(4, "little") + name + generation.to_bytes(8, "little")
    return hmac.new(root_key, message, hashlib.sha256).digest()


def salted(key: bytes, salt: str) -> bytes:
    """The key of a domain's chains that share nothing with those of another salt, or of none: HMAC-SHA256(key,
    "quire.salt.v1" || salt), 32 bytes. Without a salt it is the domain's key itself."""
    return hmac.new(key, _SALTED + salt.encode(), hashlib.sha256).digest() if salt else key


def chain(key: bytes, tokens: Sequence[int] | bytes, block_size: int, parent: bytes = ROOT_PARENT) -> bytes:
    """Digests of all full blocks of ``tokens``, concatenated (32 bytes each), the chain starting after ``parent``.

    ``tokens`` are ids, or the same ids already packed as little-endian u32. A partial last block gets no digest.
    """
    data = tokens if isinstance(tokens, bytes) else pack_u32(tokens)
    step, begun, out = 4 * block_size, begin(key), []
    for start in range(0, len(data) - step + 1, step):
        parent = link(begun, parent, data[start : start + step])
        out.append(parent)
    return b"".join(out)


@lru_cache(maxsize=1024)
def begin(key: bytes) -> hashlib.blake2b:
    """A hash that has taken in its key: a copy of it saves each block the setting up."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES, key=key, person=_PERSON)


def link(begun: hashlib.blake2b, parent: bytes, block: bytes) -> bytes:
    """The digest of one block (its tokens, packed) behind ``parent``."""
    one = begun.copy()
    one.update(parent)
    one.update(block)
    return one.digest()


def split(digests: bytes) -> list[bytes]:
    """Concatenated digests as a list. Raises ValueError on a partial digest."""
    if len(digests) % DIGEST_BYTES:
        raise ValueError(f"{len(digests)} bytes are not whole digests of {DIGEST_BYTES}")
    return [digests[i : i + DIGEST_BYTES] for i in range(0, len(digests), DIGEST_BYTES)]
