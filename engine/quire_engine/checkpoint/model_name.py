"""The name of a model, from the directory it lies in.

``/models/qwen3`` is ``qwen3``. In the hub's cache a directory is called after a commit and the model after the
directory above it, ``models--org--name``: there the name is ``org/name``, as it is called elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

_CACHED = "models--"


def model_name(directory: Path | str) -> str:
    """The name of the model in ``directory``; "model" for a directory without one. Links keep the name they have."""
    path = Path(os.path.abspath(directory))
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith(_CACHED):
        return path.parent.parent.name.removeprefix(_CACHED).replace("--", "/")
    return path.name or "model"
