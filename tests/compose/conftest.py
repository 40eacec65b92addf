"""The table of recovery times, behind all tests."""

from __future__ import annotations

import pytest

from tests.compose.recovery_table import TABLE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line for each thing that happened to the stack."""
    if rows := config.stash.get(TABLE, []):
        terminalreporter.section("until it answered again")
        for what, took in rows:
            terminalreporter.line(f"{what:<44}{took:>12}")
