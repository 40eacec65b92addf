"""Faults from the field: each module is a kind of fault, each test names who reported it in public.

With ``-v`` the run ends with a table: kind, test, source.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
_SOURCES = pytest.StashKey[list[tuple[str, str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known and the table empty."""
    config.addinivalue_line("markers", "source(text): where the fault was reported in public")
    config.stash[_SOURCES] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Collect the sources; a test of this folder without one is an error."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        marks = list(item.iter_markers("source"))
        if not marks:
            raise pytest.UsageError(f"{item.nodeid}: name its source, as in @pytest.mark.source('vllm-project/vllm#1')")
        kind = (item.module.__doc__ or item.module.__name__).splitlines()[0]  # type: ignore[attr-defined]
        sources = "; ".join(str(text) for mark in marks for text in mark.args)
        config.stash[_SOURCES].append((kind, item.name, sources))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table, by kind."""
    rows = config.stash[_SOURCES]
    if not rows or config.get_verbosity() < 1:
        return
    terminalreporter.section("faults from the field")
    for kind in dict.fromkeys(row[0] for row in rows):
        terminalreporter.line(kind)
        for _, name, sources in (row for row in rows if row[0] == kind):
            terminalreporter.line(f"  {name:70} {sources}")
