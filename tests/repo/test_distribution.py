"""The distribution is ``quire-kv``: ``quire`` on PyPI belongs to another project, and no user may be sent there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.repository import ROOT, source_files

NAME = "quire"  # of the stranger's distribution
COMMAND = re.compile(
    r"\b(?:pip[\d.]*|pipx|uv|uvx|poetry|conda|mamba)\b.*?\b(?:install|add|download|wheel|run)\b([^`;&|]*)"
)
BARE = re.compile(rf"(?<![\w./:=@-]){NAME}(?![\w/.:-]|\.\w)")
REQUIREMENT = re.compile(rf"(?<![\w./-]){NAME}\s?(?:\[[\w,\\{{}} -]+\]|[=~<>!]=\s?\d)")


def advice(text: str) -> list[str]:
    """Lines that name the stranger's distribution as something to install: in a command, or as a requirement."""
    return [
        line.strip()
        for line in text.splitlines()
        if REQUIREMENT.search(line) or any(BARE.search(command[1]) for command in COMMAND.finditer(line))
    ]


@pytest.mark.parametrize(
    "planted",
    [
        f"pip install {NAME}",
        f"run `pip install {NAME}`.",
        f"pip3 install -U '{NAME}'",
        f"python -m pip install --quiet numpy {NAME}",
        f"install it with: pip install '{NAME}[{{extra}}]'",
        f"uv add {NAME}",
        f"pip install {NAME}[gpu]",
        f'dependencies = ["{NAME}[kvstore]"]',
        rf"cuda-bindings is not installed: pip install '{NAME}\[gpu\]'",
        f"{NAME}==0.1.0",
        f"{NAME} >=0.1",
    ],
)
def test_advice_to_install_the_strangers_package_is_found(planted: str) -> None:
    """The control: each way of sending a user to ``quire`` on PyPI is seen."""
    assert advice(f"before\n{planted}\nafter") == [planted]


@pytest.mark.parametrize(
    "innocent",
    [
        f"pip install '{NAME}-kv[gpu]'",
        "pip install -c constraints.txt '.[engine,gateway]'",
        f"{NAME} serve --model DIR",
        f"pip install . && {NAME}-bench",
        f"pip install /opt/{NAME}/src",
        f"from {NAME}_proto import client",
    ],
)
def test_our_own_name_and_the_command_are_no_such_advice(innocent: str) -> None:
    """``quire-kv``, a checkout, the command and the packages may be named."""
    assert advice(innocent) == []


def test_no_file_sends_anybody_to_the_strangers_package() -> None:
    """Every text file that git knows but this one."""
    files = source_files()
    assert len(files) > 100
    found = {
        str(file.relative_to(ROOT)): lines
        for file in files
        if file != Path(__file__) and (lines := advice(file.read_text(errors="replace")))
    }

    assert found == {}


def test_the_distribution_is_quire_kv_and_the_command_quire() -> None:
    """pyproject names both; the extras name the distribution they belong to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {line for extra in project["optional-dependencies"].values() for line in extra if line.startswith(NAME)}

    assert project["name"] == "quire-kv"
    assert list(project["scripts"]) == [NAME]
    assert ours
    assert all(line.startswith("quire-kv[") for line in ours)
