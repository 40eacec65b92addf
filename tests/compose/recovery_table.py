"""The table that a run on a container engine ends with, on its way from the stack to the terminal."""

from __future__ import annotations

import pytest

TABLE = pytest.StashKey[list[tuple[str, str]]]()
