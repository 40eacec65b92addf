"""Prints what an extra of the project requires, one requirement a line: requirements.py EXTRA...

The image installs dependencies before it sees the sources, so that a changed line of them installs no package again.
Extras that name extras of the project itself are taken apart.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

OWN = re.compile(r"quire-kv\[([a-z,]+)\]")


def requirements(project: dict[str, object], extras: list[str]) -> list[str]:
    """The requirements of the project with these extras, each once."""
    found = dict.fromkeys(project["dependencies"])
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = OWN.fullmatch(line)
            found |= dict.fromkeys(requirements(project, own[1].split(",")) if own else [line])
    return list(found)


if __name__ == "__main__":
    print("\n".join(requirements(tomllib.loads(Path("pyproject.toml").read_text())["project"], sys.argv[1:])))
