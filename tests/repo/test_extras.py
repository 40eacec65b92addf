"""What each part imports is what its extra installs: a gateway's image has no library of the engine's.

Read from the sources, so that an import inside a function counts as any other.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from tests.support.repository import ROOT

SOURCES = {
    f"quire_{name}": ROOT / name / f"quire_{name}" for name in ("proto", "kvstore", "kernels", "engine", "services")
}
SOURCES["quire_kv"] = ROOT / "proto" / "quire_kv"
# Entries of each extra.
ENTRIES = {
    "": ["quire_kv"],
    "kvstore": ["quire_services.daemons.kvstored", "quire_services.cli.status", "quire_services.stack.stop"],
    "gateway": ["quire_services.daemons.gateway"],
    "engine": ["quire_services.daemons.engined", "quire_services.cli.prepare", "quire_services.cli.models.calibrate"],
    "top": ["quire_services.cli.views.top"],
    "ray": ["quire_services.cluster.command", "quire_services.cluster.tied_process"],
    "serve": ["quire_services.cluster.ray_serve"],
}
# Asked for where they are installed, done without where they are not.
OPTIONAL = {"opentelemetry", "cuda", "triton"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_by(extra: str) -> set[str]:
    """The distributions that come with an extra, and with what it requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    found: set[str] = set()
    while waiting:
        line = waiting.pop()
        if own := re.fullmatch(r"quire-kv\[([a-z,]+)\]", line):
            waiting += [each for name in own[1].split(",") for each in project["optional-dependencies"][name]]
            continue
        name = normal(re.split(r"[ ;<>=!~\[(]", line, maxsplit=1)[0])
        if name not in found and "extra ==" not in line:
            found.add(name)
            with suppress(PackageNotFoundError):
                waiting += requires(name) or []
    return found


def file_of(module: str) -> Path | None:
    """The source of a module of ours."""
    package, _, rest = module.partition(".")
    base = SOURCES[package].joinpath(*rest.split(".")) if rest else SOURCES[package]
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


@cache
def imported(module: str, file: Path) -> tuple[str, ...]:
    return tuple(_imports(module, file))


def _imports(module: str, file: Path) -> Iterator[str]:
    """What a module imports, wherever in it, but for the eyes of a type checker."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def foreign(entries: list[str]) -> dict[str, str]:
    """Each foreign package that is reached from modules of ours, and by which."""
    seen: set[str] = set()
    found: dict[str, str] = {}
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        top = module.partition(".")[0]
        if top not in SOURCES:
            if top not in sys.stdlib_module_names:
                found.setdefault(top, "")
            continue
        parts = module.split(".")
        for name in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
            if name not in seen and (file := file_of(name)):
                seen.add(name)
                for wanted in imported(name, file):
                    if (
                        wanted_top := wanted.partition(".")[0]
                    ) not in SOURCES and wanted_top not in sys.stdlib_module_names:
                        found.setdefault(wanted_top, name)
                    else:
                        waiting.append(wanted)
    return found


@pytest.mark.parametrize("extra", ENTRIES)
def test_an_extra_installs_all_that_its_part_imports(extra: str) -> None:
    """Or somebody's first start of that part alone ends in a ModuleNotFoundError."""
    comes, of = installed_by(extra), packages_distributions()
    missing = {
        module: by
        for module, by in foreign(ENTRIES[extra]).items()
        if module not in OPTIONAL and not {normal(name) for name in of.get(module, [module])} & comes
    }
    assert missing == {}
