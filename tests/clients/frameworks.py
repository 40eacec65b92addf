"""Runs the suite of a framework by the program of its environment, and reads what it found."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

from tests.support.repository import ROOT

SUITES = ROOT / "tests" / "clients" / "suites"
Counts = tuple[int, int, float]  # checks, passed, seconds
# Nothing is to be asked of anybody but the server: some send statistics home, or look there for prices.
QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OTEL_SDK_DISABLED": "true",
}
LIMIT_S = 150


def run_suite(name: str, program: Path, address: str, tmp: Path) -> tuple[str, Counts]:
    """What it printed, if a check failed or there was none, and its counts.

    Args:
        program: what runs it, in its environment.
        address: of the stack, without ``/v1``.
        tmp: its home and its report.
    """
    report = tmp / "report.xml"
    environ = {**os.environ, **QUIET, "HOME": str(tmp), "QUIRE_CLIENTS_URL": address}
    environ.pop("PYTHONPATH", None)
    command = _node(name, program, report) if program.suffix == ".mjs" else _pytest(name, program, report)
    ran = subprocess.run(
        command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S,
        check=False,
    )  # fmt: skip
    checks, passed, _ = counts = _counts(report)
    right = ran.returncode == 0 and checks == passed > 0
    return "" if right else ran.stdout[-20_000:] + ran.stderr[-4_000:], counts


def _pytest(name: str, python: Path, report: Path) -> list[str]:
    settings = ["-c", str(SUITES / "pytest.ini"), "--rootdir", str(ROOT), "--confcutdir", str(SUITES)]
    settings += ["-o", f"pythonpath={SUITES / name}"]  # what suites of a folder share lies beside them
    files = sorted(map(str, (SUITES / name).glob("suite*.py")))
    return [str(python), "-m", "pytest", "-q", *settings, f"--junitxml={report}", *files]


def _node(name: str, program: Path, report: Path) -> list[str]:
    shutil.copy(SUITES / name / "suite.mjs", program)  # Node looks for packages beside the program
    return ["node", "--test", "--test-reporter=junit", f"--test-reporter-destination={report}", str(program)]


def _counts(report: Path) -> Counts:
    """Checks, those that passed, and seconds."""
    if not report.exists():
        return 0, 0, 0.0
    cases = list(ElementTree.parse(report).iter("testcase"))
    passed = sum(not any(child.tag in ("failure", "error", "skipped") for child in case) for case in cases)
    return len(cases), passed, sum(float(case.get("time", 0)) for case in cases)
