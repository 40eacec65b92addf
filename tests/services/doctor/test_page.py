"""The runbook and the catalogue say the same."""

from __future__ import annotations

import re

from quire_services.doctor.catalogue import FACTS, PROBLEMS
from quire_services.doctor.findings import Severity
from tests.support.repository import ROOT, source_files

PAGE = (ROOT / "docs" / "operate" / "doctor.md").read_text()
SECTION = re.compile(r"^### ([\w-]+)\n\n(\w+)\. (.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)


def test_every_finding_has_a_section_and_every_section_a_finding() -> None:
    """With its severity, and a fix."""
    sections = {name: (severity.lower(), text) for name, severity, text in SECTION.findall(PAGE)}
    assert {name: severity for name, (severity, _) in sections.items()} == PROBLEMS
    assert [name for name, (_, text) in sections.items() if "**Fix.**" not in text] == []
    assert len(re.findall(r"^### ", PAGE, re.MULTILINE)) == len(PROBLEMS)


def test_every_finding_is_found_by_a_check() -> None:
    """No id is in the catalogue alone, and no fact."""
    folder = ROOT / "services" / "quire_services" / "doctor"
    code = "".join(
        file.read_text() for file in source_files("*.py") if folder in file.parents and file.stem != "catalogue"
    )
    code = code.replace('f"{what}-limited"', '"address-space-limited" "file-size-limited"')
    assert [name for name in (*PROBLEMS, *FACTS) if f'"{name}"' not in code] == []


def test_every_severity_is_one() -> None:
    """Of those that have an exit code."""
    assert set(PROBLEMS.values()) == {s.word for s in Severity if s}
