"""Frameworks as their users run them: unmodified, from PyPI and npm, against a real stack (README)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.frameworks import run_suite
from tests.support.client_environments import client_environment
from tests.support.repository import ROOT, script
from tests.support.stack import Stack

envs: Any = script("client_envs")
MADE = ROOT / ".clients"

pytestmark = pytest.mark.process


@pytest.fixture
def printed(stack: Stack, tmp_path: Path, record_property: Callable[[str, object], None]) -> Callable[[str, Path], str]:
    """Runs a suite and says what it printed if something failed; what it counted goes to the report."""

    def run(name: str, program: Path) -> str:
        said, counts = run_suite(name, program, stack.url, tmp_path)
        record_property(name, counts)
        return said

    return run


def test_the_official_client_works(printed: Callable[[str, Path], str]) -> None:
    """In this environment, with the version of it that is pinned here."""
    assert printed("openai", Path(sys.executable)) == ""


@pytest.mark.slow
@pytest.mark.timeout(480)  # its environment may have to be made first
@pytest.mark.parametrize("name", envs.suites())
def test_a_framework_works(name: str, printed: Callable[[str, Path], str]) -> None:
    """Every check of its suite passes."""
    if envs.is_node(name) and shutil.which("npm") is None:
        pytest.skip("there is no npm")
    program = client_environment(name, MADE) / ("suite.mjs" if envs.is_node(name) else "bin/python")
    assert printed(name, program) == ""
