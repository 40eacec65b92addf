"""The path of a cold allocate stays short (scripts/allocate_path.py)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.repository import ROOT, script

MAX_FUNCTIONS, MAX_FILES = 45, 13  # of the kvstore, its server included
MAX_OP_FUNCTIONS, MAX_OP_FILES = 33, 11  # of the op alone
allocate_path: Any = script("allocate_path")


def test_a_cold_allocate_passes_few_functions_of_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """From frame to reply it can be read in one go: each step that is added is seen here."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    found = allocate_path.functions(ROOT)
    kvstore = [entry for entry in found if "/quire_kvstore/" in entry[0]]
    op = allocate_path.of_the_op(found)

    assert len(kvstore) <= MAX_FUNCTIONS, kvstore
    assert len({file for file, _ in kvstore}) <= MAX_FILES, kvstore
    assert len(op) <= MAX_OP_FUNCTIONS, op
    assert len({file for file, _ in op}) <= MAX_OP_FILES, op
    assert ("kvstore/quire_kvstore/ops/allocate.py", "allocate") in op
