"""``quire tenant list`` for a person."""

from __future__ import annotations

from quire_proto.messages.tenants import TenantUsage
from quire_services.cli.tenant import tenants_table

HEAD = "tenant held cached limit guarantee weight requests prompt tokens from cache"


def test_the_table_has_a_line_an_account_in_columns() -> None:
    """Names of any length stay in their column; what has no quota shows none; shares are of prompt tokens."""
    rows = [
        TenantUsage("(public)", 3, 0, 0, 0, 0),
        TenantUsage("acme", 1234, 20000, 7, 1000, 250, 40960, 0, 300),
        TenantUsage("x" * 200, 0, 0, 0, 0, 0),
    ]
    lines = tenants_table(rows).splitlines()

    assert len({len(line) for line in lines}) == 1, "every line is as wide as the others"
    assert " ".join(lines[0].split()) == HEAD
    assert lines[1].split() == ["(public)", "3", "0", *["-"] * 6]
    assert lines[2].split() == ["acme", "1,234", "20,000", "40,960", "-", "300", "7", "1,000", "25%"]
    assert lines[3].startswith("x" * 37 + "...  ")
