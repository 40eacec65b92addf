"""Model list: the served model as Anthropic's API lists it, to clients that say they speak that API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any


def model_info(name: str, created: int, max_model_len: int | None) -> dict[str, Any]:
    """A model by one of its names; ``created`` in seconds since 1970."""
    began = datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    said = {"type": "model", "id": name, "display_name": name, "created_at": began, "lifecycle": "active"}
    return said | {"max_input_tokens": max_model_len, "max_tokens": max_model_len}


def model_page(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The only page of the list."""
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]}
    return {"data": list(models), "has_more": False, **ends}
