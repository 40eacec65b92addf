"""Findings: what a check has seen, how bad that is, and what would help.

Owns the form. Which findings there are stands in the ``catalogue``: a check names one by its id, and cannot say
anything that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from quire_services.config.input_files import one_line

from .catalogue import FACTS, PROBLEMS


class Severity(IntEnum):
    """How bad it is. ``info``: worth knowing, and as it may be."""

    OK = 0
    INFO = 1
    WARNING = 2
    ERROR = 3

    @property
    def word(self) -> str:
        """As it is printed."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        id: its name in the catalogue and in docs/operate/doctor.md.
        severity: how bad it is.
        seen: what was seen, one line.
        fix: what to do, one line; empty for what is as it should be.
        where: the file, setting or process that it is about.
    """

    id: str
    severity: Severity
    seen: str
    fix: str = ""
    where: str = ""

    def as_json(self) -> dict[str, str]:
        """Its fields, as ``--json`` has them."""
        return {
            "id": self.id, "severity": self.severity.word, "seen": self.seen, "fix": self.fix, "where": self.where
        }  # fmt: skip


Findings = Iterator[Finding]


def fact(name: str, seen: str, where: object = "") -> Finding:
    """Something that is as it should be."""
    assert name in FACTS, name
    return Finding(name, Severity.OK, one_line(seen), "", one_line(str(where)))


def problem(name: str, seen: str, fix: str, where: object = "") -> Finding:
    """Something that is not."""
    assert fix, name
    return Finding(name, Severity[PROBLEMS[name].upper()], one_line(seen), one_line(fix), one_line(str(where)))


def worst(found: list[Finding]) -> Severity:
    """The severity of the worst of them."""
    return max((finding.severity for finding in found), default=Severity.OK)
