"""The prepared file of a run directory: its name, and how it is told from any other file of that name."""

from __future__ import annotations

import json
from pathlib import Path

from quire_services.config.input_files import PREPARED_BYTES, read_bytes

PREPARED_FILE = "prepared.json"
KEYS = {"model_dir", "layout", "published"}


def is_prepared(file: Path) -> bool:
    """Whether ``quire prepare`` wrote it. Raises OSError."""
    try:
        content = json.loads(read_bytes(file, PREPARED_BYTES))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= KEYS
