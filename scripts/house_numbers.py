"""House numbers: how the source is arranged, as figures that tests hold and people compare.

    python scripts/house_numbers.py [--json] [ROOT [OLDER_ROOT]]

For each package, and for the benches: floors (the longest chain of imports between its top-level parts, where a part
is a folder or a single module; type-only imports count, imports inside functions too), cycles between modules, the
fullest folder, the longest file, public names that two modules define, files named by a present participle, modules
that nothing uses, and folders that say nowhere what they hold. ROOT may be a tree of another time, flat ones included.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGES = {
    "quire_proto": "proto",
    "quire_kvstore": "kvstore",
    "quire_kernels": "kernels",
    "quire_engine": "engine",
    "quire_services": "services",
    "bench": "",
}
# Nouns of the field that end like a participle.
NOUNS = frozenset(
    [
        "mapping",
        "tiling",
        "scheduling",
        "sharing",
        "sampling",
        "string",
        "routing",
        "ring",
        "tuning",
        "timing",
        "tracing",
    ],
)
# Names that many modules define on purpose: an entry, a module's logger, and the two functions of every bench.
SHARED_NAMES = frozenset({"main", "log"})
BENCH_NAMES = frozenset({"main", "run", "add_arguments"})
# What nothing but tests is meant to use: the kernels are held against it.
FOR_TESTS = frozenset({"quire_kernels.reference"})
COLUMNS = (
    "modules", "floors", "floors of modules", "cycles", "modules in the fullest folder", "lines of the longest file",
    "names twice", "participles", "unused", "folders undescribed",
)  # fmt: skip
# What may use a module of a package. Tests are left out: what only they use is dead.
USERS = (*(folder for folder in PACKAGES.values() if folder), "bench", "examples", "scripts")


@dataclass(frozen=True, slots=True)
class House:
    """The figures of one package."""

    package: str
    modules: int
    floors: int
    module_floors: int
    cycles: list[list[str]]
    folders: dict[str, int]
    longest_file: tuple[str, int]
    duplicates: dict[str, list[str]]
    participles: list[str]
    unused: list[str]
    undescribed: list[str]


@cache
def parsed(text: str) -> ast.Module:
    """The tree of a source text; each is read for several figures."""
    return ast.parse(text)


@cache
def references(text: str) -> list[ast.Import | ast.ImportFrom | ast.Constant]:
    """Imports of a source text, wherever they are, and its strings."""
    return [
        node
        for node in ast.walk(parsed(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]


def modules_of(root: Path, package: str) -> dict[str, Path]:
    """Dotted name -> file, for every module of a package."""
    base = root / PACKAGES[package]
    found = {}
    for path in sorted((base / package).rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, known: Iterable[str]) -> set[str]:
    """Which modules of ``known`` a module imports, wherever in the file, for types only as well."""
    names = set(known)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in references(path.read_text()):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            ancestors = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*ancestors, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in names else base)
    return (found & names) - {module}


def components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(group for group in found if len(group) > 1)


def height(graph: dict[str, set[str]]) -> int:
    """Nodes of the longest chain; the nodes of a cycle stand on one floor."""
    floor_of = {node: node for node in graph} | {node: group[0] for group in components(graph) for node in group}
    floors: dict[str, set[str]] = defaultdict(set)
    for node, others in graph.items():
        floors[floor_of[node]] |= {floor_of[other] for other in others} - {floor_of[node]}
    levels: dict[str, int] = {}
    for node in TopologicalSorter(floors).static_order():
        levels[node] = 1 + max((levels[other] for other in floors[node]), default=0)
    return max(levels.values(), default=0)


def by_part(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph between the parts of the package: its folders, and modules that lie in none."""
    part = {name: ".".join(name.split(".")[:2]) for name in graph}
    merged: dict[str, set[str]] = defaultdict(set)
    for name, others in graph.items():
        merged[part[name]] |= {part[other] for other in others} - {part[name]}
    return dict(merged)


def public_names(path: Path) -> Iterator[str]:
    """Names that a module defines for others: classes, functions and assignments at its top level."""
    for node in parsed(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            targets = [one for target in node.targets for one in getattr(target, "elts", [target])]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def duplicates_of(package: str, modules: dict[str, Path]) -> dict[str, list[str]]:
    """Public names that two modules or more define: name -> modules.

    Benches are programs that are read one by one: their constants may be alike.
    """
    shared = BENCH_NAMES if package == "bench" else SHARED_NAMES
    owners: dict[str, set[str]] = defaultdict(set)
    for module, path in modules.items():
        for name in public_names(path):
            if not name.startswith("_") and name not in shared and not (package == "bench" and name.isupper()):
                owners[name].add(module)
    return {name: sorted(where) for name, where in sorted(owners.items()) if len(where) > 1}


def is_participle(path: Path) -> bool:
    """Whether a file is named by something that is being done."""
    words = path.stem.split("_")
    return any(word.endswith("ing") and word not in NOUNS for word in words)


def unused_of(root: Path, modules: dict[str, Path]) -> list[str]:
    """Modules that no other imports or names in a string, and that cannot be run."""
    used: set[str] = set()
    names: set[str] = set()
    for folder in USERS:
        for path in sorted((root / folder).rglob("*.py")):
            own = next((name for name, file in modules.items() if file == path), "")
            used |= imports_of(own, path, modules)
            names |= {name for name in words_of(path) if name != own}
    entries = {name for name, path in modules.items() if is_entry(name, path)}
    return sorted(set(modules) - used - names - entries - FOR_TESTS)


def is_entry(module: str, path: Path) -> bool:
    """Whether a module is a face or can be run; a bench is found by its name in the folder of its kind."""
    text = path.read_text()
    return (
        path.name in ("__init__.py", "__main__.py")
        or '__name__ == "__main__"' in text
        or (module.startswith("bench.") and not {"main", "add_arguments"}.isdisjoint(public_names(path)))
    )


def words_of(path: Path) -> Iterator[str]:
    """Strings of a module that may name another one, as in a table of commands."""
    for node in references(path.read_text()):
        if isinstance(node, ast.Constant):
            yield str(node.value)


def undescribed_of(root: Path, modules: dict[str, Path]) -> list[str]:
    """Folders of modules with neither a docstring in ``__init__.py`` nor a page."""
    folders = {path.parent for path in modules.values()}
    return sorted(str(folder.relative_to(root)) for folder in folders if not describes(folder))


def describes(folder: Path) -> bool:
    """Whether a folder says what it holds."""
    face = folder / "__init__.py"
    return (folder / "README.md").exists() or (
        face.exists() and ast.get_docstring(parsed(face.read_text())) is not None
    )


def house_of(root: Path, package: str) -> House:
    """The figures of one package under ``root``."""
    modules = modules_of(root, package)
    graph = {name: imports_of(name, path, modules) for name, path in modules.items()}
    folders = Counter(str(path.parent.relative_to(root)) for path in modules.values() if path.name != "__init__.py")
    lengths = {str(path.relative_to(root)): len(path.read_bytes().splitlines()) for path in modules.values()}
    return House(
        package,
        len(modules),
        height(by_part(graph)),
        height(graph),
        components(graph),
        dict(folders.most_common()),
        max(lengths.items(), key=lambda entry: entry[1]),
        duplicates_of(package, modules),
        [str(path.relative_to(root)) for path in modules.values() if is_participle(path)],
        unused_of(root, modules),
        undescribed_of(root, modules),
    )


def row(house: House) -> list[int]:
    """The figures of a package as the table shows them."""
    return [
        house.modules,
        house.floors,
        house.module_floors,
        len(house.cycles),
        max(house.folders.values()),
        house.longest_file[1],
        len(house.duplicates),
        len(house.participles),
        len(house.unused),
        len(house.undescribed),
    ]


def main(argv: list[str]) -> int:
    """Print a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(description="How the source is arranged, in figures.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("older", nargs="?", type=Path, help="another tree; figures that differ become: older -> now")
    parser.add_argument("--json", action="store_true", help="everything of ROOT, as JSON")
    options = parser.parse_args(argv)
    if options.json:
        print(json.dumps([asdict(house_of(options.root, package)) for package in PACKAGES], indent=1))
        return 0
    print("| package | " + " | ".join(COLUMNS) + " |")
    print("| --- |" + " ---: |" * len(COLUMNS))
    for package in PACKAGES:
        now = row(house_of(options.root, package))
        before = row(house_of(options.older, package)) if options.older else now
        cells = [str(new) if new == old else f"{old} -> {new}" for old, new in zip(before, now, strict=True)]
        print(f"| {package} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
