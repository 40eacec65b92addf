"""Builds the wheel and compares its files with git: nothing of ours missing, nothing foreign inside.

An editable install sees every file of the working tree, a wheel only what the build is told about; a forgotten
package or an untracked file shows up nowhere else before a user installs it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def package_folders() -> list[str]:
    """The packages the wheel is made of, e.g. ``proto/quire_proto``, as pyproject.toml lists them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders: list[str] = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return folders


def expected_files(folders: list[str]) -> set[str]:
    """What git tracks in those packages, by the name it has inside the wheel."""
    out = subprocess.run(["git", "ls-files", "-z", "--", *folders], cwd=ROOT, check=True, capture_output=True)
    tracked = [name for name in out.stdout.decode().split("\0") if name]
    return {name.split("/", 1)[1] for name in tracked if (ROOT / name).exists()}


def build_wheel(out: Path) -> Path:
    """The wheel, built in ``out`` with the environment's own hatchling."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the wheel does not build:\n{done.stdout}{done.stderr}")
    return next(out.glob("*.whl"))


def problems(names: set[str], expected: set[str], folders: list[str]) -> list[str]:
    """Sentences about what is wrong with a wheel that holds ``names``."""
    metadata = {name for name in names if ".dist-info/" in name}
    found = [f"missing from the wheel: {name}" for name in sorted(expected - names)]
    found += [f"in the wheel but not in git: {name}" for name in sorted(names - metadata - expected)]
    packages = [Path(folder).name for folder in folders]
    found += [f"{package} has no py.typed" for package in packages if f"{package}/py.typed" not in names]
    if not any(name.endswith("/LICENSE") for name in metadata):
        found.append("the wheel carries no LICENSE")
    return found


def main() -> int:
    """Exit code 1 and one line a problem, or 0 and one line that says what was compared."""
    folders = package_folders()
    with tempfile.TemporaryDirectory() as out:
        wheel = build_wheel(Path(out))
        names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    found = problems(names, expected_files(folders), folders)
    for line in found:
        print(line)
    if not found:
        print(f"{wheel.name}: {len(names)} files, as in git")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
