"""What tests share is listed where a stranger looks for it."""

from __future__ import annotations

import re

import tests.support
from tests.support.repository import ROOT


def test_every_helper_is_on_the_page() -> None:
    """The docstring of ``tests.support`` names each of its modules, and no other."""
    assert tests.support.__doc__
    listed = {name for line in re.findall(r"^- (.*?):", tests.support.__doc__, re.M) for name in line.split("``")[1::2]}
    modules = {path.stem for path in (ROOT / "tests" / "support").glob("*.py")} - {"__init__"}

    assert modules <= set(re.findall(r"``(\w+)``", tests.support.__doc__))
    assert listed <= modules
