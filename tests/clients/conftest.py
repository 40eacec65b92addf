"""One stack for all suites, and the table of what they said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.plays import make_model
from tests.support.stack import Stack, running_stack

collect_ignore = ["suites"]  # they run in environments of their own
CONFIG = '[[tenants]]\nname = "acme"\nkeys = ["sk-acme"]\n'


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tmp: Path = tmp_path_factory.mktemp("clients")
    model = make_model(tmp / "model")
    with running_stack(tmp, model, "--served-model-name", "puppet", engines=1, config=CONFIG) as it:
        yield it


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each framework."""
    reports = [one for outcome in ("passed", "failed") for one in terminalreporter.stats.get(outcome, [])]
    suites = [one for one in reports if one.nodeid.startswith("tests/clients/test_suites.py")]
    counted = dict(pair for one in suites if one.when == "call" for pair in one.user_properties)
    if counted:
        terminalreporter.section("frameworks")
        for name, (checks, passed, seconds) in counted.items():
            terminalreporter.line(f"{name:16} {checks:3} checks {passed:3} passed {seconds:6.1f} s")
        whole = [sum(counts) for counts in zip(*counted.values(), strict=True)]
        terminalreporter.line(f"{'all':16} {whole[0]:3.0f} checks {whole[1]:3.0f} passed {whole[2]:6.1f} s")
