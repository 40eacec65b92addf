"""How findings are printed."""

from __future__ import annotations

import json
from pathlib import Path

from quire_services.doctor.findings import Severity, fact, problem, worst
from quire_services.doctor.report import json_report, text_report

FOUND = [
    fact("kernel", "Linux"),
    problem("stale-socket", "the process\x1b[31m is gone\n", "quire serve", "/run/a.sock"),
    problem("port-taken", "word " * 40, "choose another port", "gateway.port"),
]


def test_lines_for_people() -> None:
    """A fix under each problem, nothing that a terminal would obey, and a count; nothing is wrong without problems."""
    text = text_report(FOUND, Path("/run"), 0, colours=False)
    assert [line.split()[:2] for line in text.splitlines() if line[:1].isalpha()][1:4] == [
        ["ok", "kernel"], ["warning", "stale-socket"], ["error", "port-taken"],
    ]  # fmt: skip
    assert text.count("fix: ") == 2
    assert text.replace("\n", "").isprintable()
    assert "1 error, 1 warning" in text
    assert text_report(FOUND[:1], Path("/run"), 0, colours=False).endswith("nothing is wrong")


def test_a_terminal_gets_colours_and_its_width() -> None:
    """Lines are broken at the edge, and only severities are coloured."""
    text = text_report(FOUND, Path("/run"), 100, colours=True)
    assert text.count("\x1b[0m") == len(FOUND)
    assert max(len(line) for line in text.replace("\x1b[31m", "").replace("\x1b[0m", "").splitlines()) <= 100


def test_json_for_programs() -> None:
    """The worst severity, and every field as text."""
    report = json.loads(json_report(FOUND, Path("/run")))
    assert report["severity"] == "error"
    assert all(isinstance(value, str) for finding in report["findings"] for value in finding.values())
    assert worst([]) is Severity.OK
