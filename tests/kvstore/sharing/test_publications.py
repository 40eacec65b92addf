"""Publications and the chains behind them; what tenants share stands in tests/scenarios/sharing."""

from __future__ import annotations

import pytest

from quire_kvstore.sharing.publications import PublicationList
from quire_proto import messages as m
from tests.support.driver import Driver

TEN = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]  # two blocks and a tail of two
EIGHT = TEN[:8]  # exactly two blocks


@pytest.fixture
def driver() -> Driver:
    return Driver(blocks=32, publications={"ten": TEN, "eight": EIGHT})


def computed_once(driver: Driver, identity: str = "ten") -> m.Found:
    """Let one session compute the publication, free everything of its own, and look the publication up."""
    session = driver.attach()
    tokens = {"ten": TEN, "eight": EIGHT}[identity]
    driver.allocate(session, 1, [*tokens, 7], tenant="first", publication=identity)
    driver.write(session, 1, len(tokens) + 1)
    driver.free(session, 1)
    found = driver.store.lookup(m.Lookup(publication=identity))
    assert found is not None
    return found


@pytest.mark.parametrize("duplicate", [True, False])
def test_it_replaces_the_private_parent_of_what_follows(driver: Driver, duplicate: bool) -> None:
    """A block sealed above a private copy of the prompt, then shared behind the publication, outlives that copy."""
    computed_once(driver)
    plain, aware = driver.attach(), driver.attach()
    prompt = [*TEN, 7, 8, 9]
    if duplicate:
        driver.allocate(aware, 1, prompt, tenant="t", publication="ten")
        driver.write(aware, 1, 13)
    driver.allocate(plain, 1, prompt, tenant="t")
    driver.write(plain, 1, 13)
    driver.seal(plain, 1)
    if duplicate:
        assert len(driver.seal(aware, 1).canonical) == 8
    else:
        assert driver.allocate(aware, 1, prompt, tenant="t", publication="ten").computed == 12
    driver.free(plain, 1)
    assert driver.counts()["cached"] == 2

    assert driver.allocate(plain, 2, [1] * 4 * (driver.counts()["free"] + 2), tenant="big").code == m.OK

    driver.check()
    assert len(driver.store.state.index) == 1
    driver.free(plain, 2)
    assert driver.allocate(plain, 3, prompt, tenant="t", publication="ten").computed == 12


@pytest.mark.parametrize(
    ("identity", "domain", "tokens"),
    [("x", "(public)", [1]), ("x", "", [1]), ("x", "public", []), ("", "public", [1]), ("../x", "public", [1])],
)
def test_only_named_publications_with_tokens_are_served(identity: str, domain: str, tokens: list[int]) -> None:
    """Anything else is refused at start rather than shared by accident."""
    with pytest.raises(ValueError, match="publication"):
        PublicationList().add(identity, domain, tokens)


def test_a_hit_past_a_publication_outlives_the_private_chain_it_was_sealed_above() -> None:
    """Making room for the rest may evict that chain's head: what was matched stays named, and a hit for the next."""
    driver = Driver(blocks=8, publications={"eight": EIGHT})
    session = driver.attach()
    prompt = [*EIGHT, 1, 2, 3, 4]
    driver.allocate(session, 1, [*prompt, 5], tenant="t")
    driver.write(session, 1, 13)
    driver.seal(session, 1)
    driver.free(session, 1)
    computed_once(driver, "eight")
    assert driver.counts()["cached"] == 3

    reply = driver.allocate(session, 2, [*prompt, *range(20)], tenant="t", publication="eight")

    assert (reply.code, reply.computed) == (m.OK, 12)
    driver.check()
    driver.free(session, 2)
    assert driver.allocate(session, 3, [*prompt, 6], tenant="t", publication="eight").computed == 12
    driver.check()
