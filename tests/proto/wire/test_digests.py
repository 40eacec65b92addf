"""Digests, packed arrays and layout: the definitions other implementations must match."""

from __future__ import annotations

import hashlib
import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire_proto.step.token_chain import DomainChain
from quire_proto.wire import u32 as packed
from quire_proto.wire.digests import DIGEST_BYTES, chain, domain_key, salted, split
from quire_proto.wire.layout import Layout

# Computed with OpenSSL: `openssl mac … HMAC` for the key, `openssl mac -macopt custom:quire.digest.v1 … BLAKE2BMAC`.
KEY = "d7eee26a6ccbebefde68b9de7ef21e6dca32c0a437691f0bb2ebd297e4e69523"
SALTED = "32a78e1699ca24f878e1ddfc1b737639478b41d345271223ac77f2f458b1ce6c"
DIGESTS = [
    "831424317885627aa3b892038f53f871b776917d28a836d907f0fe90e67be019",
    "6e8ec1207894ffc44b4fa570f0d151141fb192ddd4a1878b3b5a785ff152bb27",
]

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=70)


def test_digest_vector() -> None:
    """Root key 00..1f, domain acme, generation 0, tokens 1..9 in blocks of 4: the vector of PROTOCOL.md."""
    key = domain_key(bytes(range(32)), "acme", 0)
    digests = split(chain(key, range(1, 10), 4))

    assert key.hex() == KEY
    assert [d.hex() for d in digests] == DIGESTS


def test_a_salt_makes_another_key() -> None:
    """HMAC over a label and the salt, as PROTOCOL.md says; no salt leaves the domain's key as it is."""
    key = domain_key(bytes(range(32)), "acme", 0)

    assert salted(key, "") == key
    assert salted(key, "pepper") == hmac.digest(key, b"quire.salt.v1pepper", hashlib.sha256)
    assert salted(key, "pepper").hex() == SALTED
    names = [set(split(chain(salted(key, salt), range(64), 4))) for salt in ("", "pepper", "paprika")]
    assert len(set.union(*names)) == 48


def test_domain_key_is_hmac_over_the_length_prefixed_name() -> None:
    """Name and generation cannot run into each other."""
    message = struct.pack("<I", 4) + b"acme" + struct.pack("<Q", 3)

    assert domain_key(b"k" * 32, "acme", 3) == hmac.digest(b"k" * 32, message, hashlib.sha256)
    assert domain_key(b"k" * 32, "acme", 3) != domain_key(b"k" * 32, "acme", 4)
    assert domain_key(b"k" * 32, "acme", 3) != domain_key(b"k" * 32, "acne", 3)


@given(tokens, st.integers(1, 9), st.data())
def test_a_chain_built_in_pieces_equals_one_built_at_once(ids: list[int], block_size: int, data: st.DataObject) -> None:
    """Prompt first, generated tokens one by one or in runs: the digests are the same."""
    built = DomainChain(b"k" * 32, block_size)
    rest = list(ids)
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        built.append(rest[:count])
        rest = rest[count:]

    assert built.digests() == chain(b"k" * 32, ids, block_size)
    assert (len(built), built.blocks, built.tokens) == (len(ids), len(ids) // block_size, packed.pack_u32(ids))


@given(tokens, st.integers(1, 5), st.data())
def test_a_forked_chain_goes_its_own_way(ids: list[int], block_size: int, data: st.DataObject) -> None:
    """A fork keeps what lies below its point and shares nothing written later."""
    parent = DomainChain(b"k" * 32, block_size, ids)
    point = data.draw(st.integers(0, len(ids)))
    child = parent.fork(point)
    child.append([7] * (block_size + 1))

    assert child.digests() == chain(b"k" * 32, [*ids[:point], *[7] * (block_size + 1)], block_size)
    assert parent.digests() == chain(b"k" * 32, ids, block_size)


def test_chains_of_two_domains_share_no_digest() -> None:
    """The same tokens under two keys have disjoint names."""
    ours, theirs = (set(split(chain(domain_key(b"r", d, 0), range(64), 4))) for d in ("a", "b"))

    assert len(ours) == 16
    assert not ours & theirs


@given(tokens)
def test_packed_tokens_survive_a_round_trip(ids: list[int]) -> None:
    """Packed means little-endian u32, whatever the machine."""
    assert packed.pack_u32(ids) == struct.pack(f"<{len(ids)}I", *ids)
    assert packed.unpack_u32(packed.pack_u32(ids)).tolist() == ids


def test_packed_rejects_what_does_not_fit() -> None:
    """Values out of range and partial rows are errors."""
    with pytest.raises(OverflowError):
        packed.pack_u32([2**32])
    with pytest.raises(OverflowError):
        packed.pack_u32([-1])
    with pytest.raises(ValueError, match="rows of 2"):
        packed.unpack_rows(bytes(12), 2)
    with pytest.raises(ValueError, match="whole digests"):
        split(bytes(DIGEST_BYTES + 1))


def test_layout_strides_address_every_element_once() -> None:
    """Shape and strides describe one contiguous array, consecutive blocks adjacent in each head's plane."""
    layout = Layout("m", "w", "", "", "bfloat16", 4, 2, 3, 8)
    shape, strides = layout.shape(5), layout.strides(5)

    elements = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        assert stride == elements
        elements *= size
    assert layout.arena_bytes(5) == elements * 2 == layout.block_bytes * 5


def test_layout_names_what_differs() -> None:
    """The model's display name is not part of the ABI; everything else is."""
    one = Layout("m", "w", "", "", "float32", 16, 2, 1, 8)
    other = Layout("other", "w2", "", "", "float32", 16, 3, 1, 8)

    assert one.differences(other) == ["weights", "num_layers"]
    assert one.fingerprint() != other.fingerprint()
    with pytest.raises(ValueError, match="block_size"):
        Layout("m", "w", "", "", "float32", 0, 2, 1, 8)
