"""A published prompt, which the wire calls a publication, as people and the admin API see it."""

from __future__ import annotations

from typing import Any

from quire_kv import Publication
from quire_proto.wire.publication_ids import prompt_id, variant_of


def prompt_row(publication: Publication) -> dict[str, Any]:
    """A published prompt as JSON values, with its length instead of its tokens."""
    return {
        "id": prompt_id(publication.id),
        "variant": variant_of(publication.tokens),
        "domain": publication.domain,
        "state": publication.state,
        "tokens": len(publication.tokens) // 4,
        "generation": publication.generation,
    }
