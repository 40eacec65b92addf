"""What a configuration may publish; what tenants share stands in tests/scenarios/sharing."""

from __future__ import annotations

import pytest

from quire_kvstore.sharing.publications import PublicationList


@pytest.mark.parametrize(
    ("identity", "domain", "tokens"),
    [("x", "(public)", [1]), ("x", "", [1]), ("x", "public", []), ("", "public", [1]), ("../x", "public", [1])],
)
def test_only_named_publications_with_tokens_are_served(identity: str, domain: str, tokens: list[int]) -> None:
    """Anything else is refused at start rather than shared by accident."""
    with pytest.raises(ValueError, match="publication"):
        PublicationList().add(identity, domain, tokens)
