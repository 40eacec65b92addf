"""The house: folders that fit in a head, arrows that go down, names that mean one thing (scripts/house_numbers.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT, script, source_files

MAX_FLOORS, MAX_MODULES, MAX_OPS, MAX_LINES = 6, 12, 16, 400
numbers: Any = script("house_numbers")


def offences(root: Path, package: str) -> set[str]:
    """What is not as it should be in a package."""
    house = numbers.house_of(root, package)
    found = {
        "cycle": house.cycles,
        "floors": house.floors > MAX_FLOORS,
        "folder": [
            folder
            for folder, modules in house.folders.items()
            if modules > (MAX_OPS if folder.endswith("/ops") else MAX_MODULES)
        ],
        "file": house.longest_file[1] > MAX_LINES,
        "name twice": house.duplicates,
        "participle": house.participles,
        "unused": house.unused,
        "undescribed": house.undescribed,
    }
    return {name for name, value in found.items() if value}


@pytest.mark.parametrize("package", numbers.PACKAGES)
def test_the_rooms_are_in_order(package: str) -> None:
    """No cycle, six floors, twelve modules a folder, names of one meaning, no file unused, no folder undescribed."""
    assert offences(ROOT, package) == set()


def tracked() -> list[Path]:
    """Every Python file of the repository."""
    files = source_files("*.py")
    assert len(files) > 10
    return files


def long_files(files: list[Path]) -> list[Path]:
    """Those that do not fit in a head."""
    return [file for file in files if len(file.read_bytes().splitlines()) > MAX_LINES]


def test_no_file_is_longer_than_400_lines() -> None:
    """Tests, examples and scripts included."""
    assert long_files(tracked()) == []


def test_no_file_is_named_by_a_participle() -> None:
    """Tests, examples and scripts included: a file is a noun, or an op of the protocol."""
    assert [file for file in tracked() if numbers.is_participle(file)] == []


def test_a_long_file_is_seen(tmp_path: Path) -> None:
    """400 lines pass, 401 do not."""
    short, long = tmp_path / "short.py", tmp_path / "long.py"
    short.write_text("\n" * MAX_LINES)
    long.write_text("\n" * (MAX_LINES + 1))
    assert long_files([short, long]) == [long]


def planted(root: Path) -> Path:
    """A package in order: two rooms, one above the other."""
    base = root / "kvstore" / "quire_kvstore"
    for folder in (base, base / "low", base / "high"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text('"""A room."""\n')
    (base / "low" / "pool.py").write_text("SIZE = 1\n")
    (base / "high" / "store.py").write_text("from quire_kvstore.low.pool import SIZE\n\nTWICE = SIZE * 2\n")
    (base / "__main__.py").write_text("import quire_kvstore.high.store\n")
    return base


def _cycle(base: Path) -> None:
    (base / "low" / "pool.py").write_text(
        "from typing import TYPE_CHECKING\n\n"
        "if TYPE_CHECKING:\n    from quire_kvstore.high.store import TWICE\n\nSIZE = 1\n"
    )


def _floors(base: Path) -> None:
    for floor in range(MAX_FLOORS):
        (base / f"floor{floor}.py").write_text(f"import quire_kvstore.floor{floor + 1}\n")
    (base / f"floor{MAX_FLOORS}.py").write_text("")


def _folder(base: Path) -> None:
    for number in range(MAX_MODULES + 1):
        (base / "low" / f"block{number}.py").write_text("")


def _ops_folder(base: Path) -> None:
    (base / "ops").mkdir()
    for number in range(MAX_OPS + 1):
        (base / "ops" / f"op{number}.py").write_text("")


def _file(base: Path) -> None:
    (base / "low" / "pool.py").write_text("SIZE = 1\n" + "\n" * MAX_LINES)


def _name_twice(base: Path) -> None:
    (base / "high" / "other.py").write_text("def SIZE() -> int:\n    return 1\n")


def _name_twice_among_others(base: Path) -> None:
    (base / "high" / "other.py").write_text("FIRST, SIZE = 0, 1\n")


def _participle(base: Path) -> None:
    (base / "low" / "growing.py").write_text("")


def _unused(base: Path) -> None:
    (base / "__main__.py").unlink()


def _undescribed(base: Path) -> None:
    (base / "low" / "__init__.py").write_text("")


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("cycle", _cycle),
        ("floors", _floors),
        ("folder", _folder),
        ("folder", _ops_folder),
        ("file", _file),
        ("name twice", _name_twice),
        ("name twice", _name_twice_among_others),
        ("participle", _participle),
        ("unused", _unused),
        ("undescribed", _undescribed),
    ],
)
def test_each_offence_is_seen(tmp_path: Path, name: str, plant: Callable[[Path], None]) -> None:
    """A package in order passes; one planted offence of each kind does not."""
    base = planted(tmp_path)
    assert offences(tmp_path, "quire_kvstore") == set()
    plant(base)
    assert name in offences(tmp_path, "quire_kvstore")
