"""The report: findings as lines for people, or as one JSON object whose form is kept.

{"format": 1, "version": "...", "run_dir": "...", "severity": "warning",
 "findings": [{"id", "severity", "seen", "fix", "where"}, ...]}
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from pathlib import Path

from quire_proto import __version__

from .findings import Finding, Severity, worst

FORMAT = 1
PAGE = "docs/operate/doctor.md"
_COLOURS = {Severity.OK: "32", Severity.INFO: "36", Severity.WARNING: "33", Severity.ERROR: "31"}
_ID_WIDTH, _SEVERITY_WIDTH = 24, 9


def json_report(found: list[Finding], run_dir: Path) -> str:
    """Everything, facts included."""
    report = {
        "format": FORMAT,
        "version": __version__,
        "run_dir": str(run_dir),
        "severity": worst(found).word,
        "findings": [finding.as_json() for finding in found],
    }
    return json.dumps(report, indent=2)


def text_report(found: list[Finding], run_dir: Path, columns: int, *, colours: bool) -> str:
    """A table with a fix under each problem; 0 ``columns``: lines are not broken."""
    lines = [f"quire {__version__}, run directory {run_dir}", ""]
    for finding in found:
        severity = finding.severity.word.ljust(_SEVERITY_WIDTH)
        if colours:
            severity = f"\x1b[{_COLOURS[finding.severity]}m{severity}\x1b[0m"
        first, *rest = _wrapped(finding.seen, columns)
        lines.append(f"{severity}{finding.id:<{_ID_WIDTH}}{first}")
        if finding.severity is not Severity.OK:
            if finding.where and finding.where not in finding.seen:
                rest += _wrapped(f"at: {finding.where}", columns)
            rest += _wrapped(f"fix: {finding.fix}", columns)
        lines += [" " * (_SEVERITY_WIDTH + _ID_WIDTH) + line for line in rest]
    return "\n".join([*lines, "", _summary(found)])


def _wrapped(text: str, columns: int) -> list[str]:
    width = max(columns - _SEVERITY_WIDTH - _ID_WIDTH, 40)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) if columns else [text]


def _summary(found: list[Finding]) -> str:
    counts = Counter(finding.severity for finding in found if finding.severity > Severity.INFO)
    if not counts:
        return "nothing is wrong"
    named = [f"{count} {severity.word}{'s' * (count > 1)}" for severity, count in sorted(counts.items(), reverse=True)]
    return f"{', '.join(named)}; each finding has a section in {PAGE}"
