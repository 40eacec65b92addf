"""The page of frameworks says what is tested, in the versions that are pinned."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.repository import ROOT

SUITES = ROOT / "tests" / "clients" / "suites"
PAGE = (ROOT / "docs" / "operate" / "frameworks.md").read_text()


def said() -> set[tuple[str, str]]:
    """Packages and their versions in the table."""
    found = re.findall(r"`([^`]+)`(?: \((npm)\))? (\d[\w.]*)", PAGE)
    return {(f"{name} (npm)" if npm else name, version) for name, npm, version in found}


def pinned(folder: Path) -> set[tuple[str, str]]:
    """What a suite has installed, by its pins."""
    if (folder / "package.json").exists():
        packages = json.loads((folder / "package-lock.json").read_text())["packages"]
        return {(f"{path.removeprefix('node_modules/')} (npm)", p["version"]) for path, p in packages.items() if path}
    lines = (folder / "requirements.txt").read_text().splitlines()
    return {(name, version) for name, _, version in (line.partition(";")[0].strip().partition("==") for line in lines)}


def test_every_version_on_the_page_is_pinned_in_a_suite() -> None:
    """And none of the page's packages stands there at another version only."""
    everything = set().union(*(pinned(folder) for folder in SUITES.iterdir() if folder.is_dir()))
    assert said() - everything == set()
    assert len(said()) > 13


def test_every_suite_is_on_the_page() -> None:
    """By a package that it asks for."""
    for folder in SUITES.iterdir():
        if (folder / "package.json").exists() or (folder / "requirements.in").exists():
            assert pinned(folder) & said(), folder.name
