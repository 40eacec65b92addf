"""Makes the environments of the client suites, and of routers: client_envs.py [--into DIR] [--update] [NAME ...]

A suite is a folder of ``tests/clients/suites``; what it needs stands beside it, every version pinned: for Python
``requirements.txt``, for Node ``package-lock.json``. Each gets an environment of its own, since frameworks pin one
another out, and none holds anything of this project. Routers of ``tests/routers`` get theirs when they are named. An
environment that has what is asked for is left alone.

uv installs for Python: its cache links files instead of copying them, so that eleven environments with much in common
take seconds. Packages come from PyPI and npm alone, whatever pip is configured with, and nothing of them is run to
install them. ``--update`` writes the pins anew from ``requirements.in`` and ``package.json`` instead.

It says a line for each, and ends with 1 at the first that cannot be made.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # make sets PYTHONSAFEPATH

from check_pins import way  # noqa: E402

SUITES = ROOT / "tests" / "clients" / "suites"
ROUTERS = ROOT / "tests" / "routers" / "environments"
UV = [str(Path(sysconfig.get_path("scripts"), "uv")), "--no-config", "--no-python-downloads", "--quiet"]
NPM = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
PYTHON_PINS, NODE_PINS = "requirements.txt", "package-lock.json"


def suites() -> list[str]:
    """Names of all, those for Node last."""
    found = {pins: sorted(file.parent.name for file in SUITES.glob(f"*/{pins}")) for pins in (PYTHON_PINS, NODE_PINS)}
    return found[PYTHON_PINS] + found[NODE_PINS]


def routers() -> list[str]:
    """Names of all routers."""
    return sorted(file.parent.name for file in ROUTERS.glob(f"*/{PYTHON_PINS}"))


def home(name: str) -> Path:
    """The folder of a suite or router."""
    return ROUTERS / name if (ROUTERS / name).is_dir() else SUITES / name


def is_node(name: str) -> bool:
    """Whether a suite is one of Node's."""
    return (home(name) / NODE_PINS).exists()


def wanted(name: str) -> str:
    """What an environment must say to be the right one."""
    pins = home(name) / (NODE_PINS if is_node(name) else PYTHON_PINS)
    return f"{sys.version} {hashlib.sha256(pins.read_bytes()).hexdigest()}"


def commands(name: str, folder: Path) -> list[list[str]]:
    """What makes an environment."""
    if is_node(name):
        return [["npm", "ci", *NPM, "--prefix", str(folder)]]
    sync = ["pip", "sync", "--only-binary", ":all:", "--python", str(folder), str(home(name) / PYTHON_PINS)]
    return [[*UV, "venv", "--clear", "--python", sys.executable, str(folder)], [*UV, *sync]]


def run(command: list[str], env: Mapping[str, str]) -> None:
    """Run an installer, whose complaints are shown and nothing else."""
    subprocess.run(command, check=True, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def make(name: str, into: Path, env: Mapping[str, str]) -> str:
    """Make one, if it is not there; what to say of it."""
    folder, began = into / name, time.monotonic()
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == wanted(name):
        return "as it was"
    if is_node(name):
        if shutil.which("npm") is None:
            return "left out, there is no npm"
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("package.json", NODE_PINS):
            shutil.copy(home(name) / file, folder)
    for command in commands(name, folder):
        run(command, env)
    ready.write_text(wanted(name))
    return f"{time.monotonic() - began:.0f} s"


def update(name: str, env: Mapping[str, str]) -> str:
    """Pin what is newest; what to say of it."""
    folder = home(name)
    if is_node(name):
        lock = ["npm", "install", "--package-lock-only", "--omit-lockfile-registry-resolved", *NPM]
        run([*lock, "--prefix", str(folder)], env)
        return "pins of package.json"
    form = ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--upgrade"]
    files = [str(folder / "requirements.in"), "--output-file", str(folder / PYTHON_PINS)]
    run([*UV, "pip", "compile", *form, *files], env)
    return "pins of requirements.in"


def main(argv: list[str]) -> int:
    """Exit code 0, or 1 after what the installer said."""
    parser = argparse.ArgumentParser(description="environments of the client suites")
    parser.add_argument("names", nargs="*", metavar="NAME", help="suites or routers (default: all suites)")
    parser.add_argument("--into", type=Path, default=ROOT / ".clients", help="where they are made (default: .clients)")
    parser.add_argument("--update", action="store_true", help="write their pins anew, and make nothing")
    asked = parser.parse_args(argv)
    if unknown := set(asked.names) - set(known := suites() + routers()):
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    env = way()
    for name in asked.names or suites():
        try:
            said = update(name, env) if asked.update else make(name, asked.into, env)
        except subprocess.CalledProcessError as failed:
            print(f"clients: {name}: failed, {' '.join(failed.cmd)}", file=sys.stderr)
            return 1
        print(f"clients: {name}: {said}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
