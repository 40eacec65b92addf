"""A publication as people and the admin API see it."""

from __future__ import annotations

from typing import Any

from quire_proto.messages import Publication


def row(publication: Publication) -> dict[str, Any]:
    """A publication as JSON values, with its length instead of its tokens."""
    return {
        "id": publication.id,
        "domain": publication.domain,
        "state": publication.state,
        "tokens": len(publication.tokens) // 4,
        "generation": publication.generation,
    }
