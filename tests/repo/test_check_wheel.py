"""The wheel check itself: it passes on a right wheel and names each kind of fault."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.support.repository import script

GOOD = {"one/__init__.py", "one/py.typed", "quire_kv-1.dist-info/licenses/LICENSE", "quire_kv-1.dist-info/METADATA"}
EXPECTED = {"one/__init__.py", "one/py.typed"}


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """The script as a module."""
    return script("check_wheel")


def test_a_right_wheel_has_no_problems(check: ModuleType) -> None:
    """Equal file lists, type markers and the licence: nothing to say."""
    assert check.problems(GOOD, EXPECTED, ["x/one"]) == []


@pytest.mark.parametrize(
    ("names", "expected", "word"),
    [
        (GOOD, EXPECTED | {"one/new.py"}, "missing from the wheel: one/new.py"),
        (GOOD | {"one/stray.py"}, EXPECTED, "not in git: one/stray.py"),
        (GOOD - {"one/py.typed"}, EXPECTED - {"one/py.typed"}, "no py.typed"),
        (GOOD - {"quire_kv-1.dist-info/licenses/LICENSE"}, EXPECTED, "no LICENSE"),
    ],
)
def test_each_fault_is_named(check: ModuleType, names: set[str], expected: set[str], word: str) -> None:
    """A forgotten file, a stray one, a lost type marker and a lost licence are each reported."""
    assert [line for line in check.problems(names, expected, ["x/one"]) if word in line]


def test_six_packages_are_in_the_wheel(check: ModuleType) -> None:
    """pyproject lists all six packages, and git tracks files in each."""
    folders = check.package_folders()

    assert len(folders) == 6
    assert {name.split("/")[0] for name in check.expected_files(folders)} == {f.split("/")[1] for f in folders}
