"""API keys as they are kept: SHA-256 digests, and how a file may name a key by its digest alone.

A file of keys may hold a key itself or ``sha256:`` and the 64 hex digits of its digest: what distributes keys to many
hosts need not know them. A digest opens nothing: the gateway hashes whatever a client sends, the digest too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

DIGEST_PREFIX = "sha256:"
_HEX = re.compile(r"[0-9a-f]{64}")


def key_digest(key: str) -> bytes:
    """What is kept and compared instead of a key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def stored_digest(key: str) -> bytes:
    """The digest of a key as a file has it, itself or by its digest. Raises ValueError for half a digest.

    Nothing is known to have the digest of zeros, and the gateway compares it with what bears no key: it is refused.
    """
    if not key.startswith(DIGEST_PREFIX):
        return key_digest(key)
    digits = key.removeprefix(DIGEST_PREFIX)
    if not _HEX.fullmatch(digits) or not digits.strip("0"):
        raise ValueError(f"{DIGEST_PREFIX} stands before 64 hex digits in lower case, not all of them zeros")
    return bytes.fromhex(digits)


def keys_fingerprint(tenants: Mapping[str, str]) -> str:
    """A name for a set of keys, tenants by digest in hex, by which two can be compared."""
    lines = (f"{digest} {tenant}\n" for digest, tenant in sorted(tenants.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
