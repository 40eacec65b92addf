"""Variants of a published prompt: what is published under one id, added to and taken back.

Chats with one system prompt and the same functions may be other tokens in each framework. So publishing under an id
that is there adds a variant; the same tokens again change nothing. ``replace`` leaves the new one alone under its id.
"""

from __future__ import annotations

from quire_kv import KVReader, Publication, Published
from quire_proto.wire.publication_ids import prompt_id, variant_id, variant_of
from quire_proto.wire.u32 import pack_u32


def variants(reader: KVReader, prompt: str) -> list[Publication]:
    """What is published under an id."""
    return [one for one in reader.fetch_publications().publications if prompt_id(one.id) == prompt]


def publish_variant(
    reader: KVReader, prompt: str, domain: str, tokens: list[int], *, tenant: str = "", replace: bool = False
) -> Published:
    """Publish tokens under a prompt's id: for the operator, or for a tenant to its group."""
    packed, there = pack_u32(tokens), variants(reader, prompt)
    same = next((one.id for one in there if one.tokens == packed), None)
    first_is_free = replace or all(one.id != prompt for one in there)
    identity = same or (prompt if first_is_free else variant_id(prompt, packed))
    reply = reader.publish(identity, domain, packed, tenant)
    for one in there if replace else ():
        if one.id != identity:
            reader.unpublish(one.id, tenant)
    return reply


def unpublish_variants(reader: KVReader, prompt: str, variant: str = "") -> int:
    """Take back all that is published under an id, or one variant of it; how many that were. Raises NotFound."""
    found = [one.id for one in variants(reader, prompt) if variant in ("", variant_of(one.tokens))]
    for identity in found or [f"{prompt}@{variant}" if variant else prompt]:  # of none, the kvstore says so
        reader.unpublish(identity)
    return len(found)
