"""The house: folders that fit in a head, arrows that go down, names that mean one thing (scripts/house_numbers.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.repo.scripts import script

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("quire_kvstore",)  # packages that are arranged in rooms
MOST_FLOORS, MOST_MODULES, MOST_OPS = 6, 12, 17
numbers: Any = script("house_numbers")


def offences(root: Path, package: str) -> set[str]:
    """What is not as it should be in a package."""
    house = numbers.house_of(root, package)
    folder, most = house.fullest_folder
    found = {
        "cycle": house.cycles,
        "floors": not 0 < house.floors <= MOST_FLOORS,
        "folder": most > (MOST_OPS if folder.endswith("/ops") else MOST_MODULES),
        "name twice": house.duplicates,
        "participle": house.participles,
    }
    return {name for name, value in found.items() if value}


@pytest.mark.parametrize("package", ROOMS)
def test_the_rooms_are_in_order(package: str) -> None:
    """No cycle, six floors at most, twelve modules a folder, each public name defined once, files named by nouns."""
    assert offences(ROOT, package) == set()


def planted(root: Path) -> Path:
    """A package in order: two rooms, one above the other."""
    base = root / "kvstore" / "quire_kvstore"
    for folder in (base, base / "low", base / "high"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text('"""A room."""\n')
    (base / "low" / "pool.py").write_text("SIZE = 1\n")
    (base / "high" / "store.py").write_text("from quire_kvstore.low.pool import SIZE\n\nTWICE = SIZE * 2\n")
    return base


def _cycle(base: Path) -> None:
    (base / "low" / "pool.py").write_text(
        "from typing import TYPE_CHECKING\n\n"
        "if TYPE_CHECKING:\n    from quire_kvstore.high.store import TWICE\n\nSIZE = 1\n"
    )


def _floors(base: Path) -> None:
    for floor in range(MOST_FLOORS):
        (base / f"floor{floor}.py").write_text(f"import quire_kvstore.floor{floor + 1}\n")
    (base / f"floor{MOST_FLOORS}.py").write_text("")


def _folder(base: Path) -> None:
    for number in range(MOST_MODULES + 1):
        (base / "low" / f"block{number}.py").write_text("")


def _name_twice(base: Path) -> None:
    (base / "high" / "other.py").write_text("def SIZE() -> int:\n    return 1\n")


def _participle(base: Path) -> None:
    (base / "low" / "growing.py").write_text("")


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("cycle", _cycle),
        ("floors", _floors),
        ("folder", _folder),
        ("name twice", _name_twice),
        ("participle", _participle),
    ],
)
def test_each_offence_is_seen(tmp_path: Path, name: str, plant: Callable[[Path], None]) -> None:
    """A package in order passes; one planted offence of each kind does not."""
    base = planted(tmp_path)
    assert offences(tmp_path, "quire_kvstore") == set()
    plant(base)
    assert name in offences(tmp_path, "quire_kvstore")
