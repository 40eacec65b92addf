"""The prepared file of a run directory: what ``quire prepare`` found out of a model for the kvstore.

    {"model", "model_dir", "max_model_len", "canonical_tools", "layout": {...}, "device_need": {...},
     "published": [{"id", "domain", "tokens": [...]}]}

Owns its name, its size limit and how it is recognised among other files of that name; the readers check the values that
they use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .input_files import read_bytes, write_private

PREPARED_FILE = "prepared.json"
MAX_PREPARED_BYTES = 1 << 28  # it holds the tokens of all published prompts
PREPARED_KEYS = {"model_dir", "layout", "published"}


def read_prepared(file: Path) -> dict[str, Any]:
    """The content of a prepared file. Raises OSError, or ValueError for one that is no JSON object."""
    try:
        content = json.loads(read_bytes(file, MAX_PREPARED_BYTES))
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def write_prepared(file: Path, content: dict[str, Any]) -> None:
    """Replace a prepared file as a whole. Raises OSError, or ValueError for a path that cannot be one."""
    write_private(file, json.dumps(content))


def is_prepared(file: Path) -> bool:
    """Whether ``quire prepare`` wrote it. Raises OSError."""
    try:
        return read_prepared(file).keys() >= PREPARED_KEYS
    except ValueError:
        return False
