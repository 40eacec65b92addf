"""Resolves all extras with constraints.txt against plain PyPI, for every Python that pyproject.toml names.

A pin may exist and still be impossible beside another one, and the machine that writes it down may be the last to see
that: a local wheel or index hides it. So neither configured sources count here (`plain_pip`) nor what is installed, and
only metadata is read. The resolver is uv, which judges markers for the Python it is asked about; pip takes its own.
Versions pinned and versions resolved must be the same set: what an extra installs without a pin is as much a fault as a
pin that nothing installs. One resolution of all extras together covers each of them: where every version is fixed, what
one of them needs is part of the same answer.

Usage: python scripts/check_pins.py [CONSTRAINTS]. Without a network it is skipped with the reason, but fails under CI.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # make sets PYTHONSAFEPATH

from plain_pip import environment  # noqa: E402

INDEX: list[str] = []  # none named: uv asks PyPI
UV = [
    str(Path(sysconfig.get_path("scripts"), "uv")),
    "--no-config",
    "--no-python-downloads",
    "pip",
    "compile",
    "--quiet",
]
PLAIN = ["--only-binary", ":all:", "--no-header", "--no-annotate"]


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(constraints: Path) -> dict[str, str]:
    """Versions by name."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def pythons() -> list[str]:
    """The Pythons that the classifiers claim."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [found[1] for line in project["classifiers"] if (found := re.search(r":: (3\.\d+)$", line))]


def way() -> dict[str, str]:
    """The environment for uv: no source that was configured, pip's certificates and proxy by the names uv reads."""
    sources = re.compile("UV_(?!HTTP_)")
    plain = {name: value for name, value in environment().items() if not sources.match(name)}
    for name, ours in (("PIP_CERT", "SSL_CERT_FILE"), ("PIP_PROXY", "ALL_PROXY")):
        if name in plain:
            plain.setdefault(ours, plain[name])
    return plain


def ask(wanted: list[str], python: str, env: dict[str, str], text: str | None = None) -> tuple[dict[str, str], str]:
    """Versions by name that PyPI offers for what is wanted, or none and what uv said."""
    command = [*UV, *PLAIN, *INDEX, "--python-version", python, *wanted]
    asked = subprocess.run(command, cwd=ROOT, env=env, input=text, capture_output=True, text=True, check=False)
    lines = (line.strip().split("==") for line in asked.stdout.splitlines() if "==" in line)
    return {normal(name): version for name, version in lines}, asked.stderr.strip()


def faults(pinned: dict[str, str], resolved: dict[str, dict[str, str]]) -> list[str]:
    """Sentences about what is pinned and not installed, or installed and not pinned. ``resolved``: by Python."""
    found = [
        f"Python {python} installs {name} {version}, which has no pin"
        for python, versions in resolved.items()
        for name, version in versions.items()
        if name not in pinned
    ]
    everything = set().union(*resolved.values())
    return found + [
        f"{name}=={pinned[name]} is pinned and nothing installs it" for name in sorted(pinned) if name not in everything
    ]


def main(argv: list[str]) -> int:
    """Exit code 1 and a line for each fault, or 0 and a line for each Python."""
    constraints = Path(argv[0]).resolve() if argv else ROOT / "constraints.txt"
    env = way()
    reached, why = ask(["-"], pythons()[0], env, "pip\n")  # always there, and needs nothing
    if not reached:
        failed = bool(os.environ.get("CI"))
        print(f"pins: {'not checked' if failed else 'skipped'}, PyPI does not answer:\n{why}", file=sys.stderr)
        return int(failed)
    resolved = {}
    for python in pythons():
        resolved[python], why = ask(["pyproject.toml", "--all-extras", "--constraints", str(constraints)], python, env)
        if not resolved[python]:
            print(f"{why}\nPython {python}: {constraints.name} and the extras cannot be installed together from PyPI")
            return 1
        print(f"Python {python}: {len(resolved[python])} packages for all extras")
    found = faults(pins(constraints), resolved)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
