"""Publications: computed once, frozen, shared across tenants at whole publications only."""

from __future__ import annotations

import pytest

from quire_kvstore.sharing.publications import PublicationList
from quire_proto import messages as m
from quire_proto.wire.u32 import unpack_rows, unpack_u32
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


def test_it_becomes_ready_when_its_tokens_are_computed(driver: Driver) -> None:
    """Pending until the acknowledged fill reaches the end; then its blocks stay, tail included."""
    session = driver.attach()
    driver.allocate(session, 1, [*TEN, 7, 8], tenant="first", publication="ten")
    driver.write(session, 1, 9)
    assert driver.store.lookup(m.Lookup(publication="ten")) == m.Found(0, b"", b"")

    driver.write(session, 1, 12)

    found = driver.store.lookup(m.Lookup(publication="ten"))
    assert found is not None
    assert (10, driver.branch(session, 1).table[:3]) == (found.tokens, list(unpack_u32(found.blocks)))
    driver.free(session, 1)
    assert driver.counts() == {"total": 32, "free": 29, "held": 3, "cached": 0, "quarantined": 0}
    driver.check()


def test_every_tenant_shares_it_and_copies_the_tail(driver: Driver) -> None:
    """Other tenants compute nothing of it; the frozen tail is copied before the first write."""
    blocks = list(unpack_u32(computed_once(driver).blocks))
    session = driver.attach()

    reply = driver.allocate(session, 1, [*TEN, 8, 8], tenant="second", publication="ten")

    assert (10, blocks[:2]) == (reply.computed, list(unpack_u32(reply.blocks))[:2])
    [(_, src, dst, slots)] = unpack_rows(reply.copies, 4)
    assert (blocks[2], unpack_u32(reply.blocks)[2], 2) == (src, dst, slots)
    driver.write(session, 1, 12)
    driver.check()


def test_a_prompt_that_is_the_publication_computes_its_last_token(driver: Driver) -> None:
    """N tokens of a publication of N: one is left to compute, in a copy of the tail."""
    computed_once(driver)
    session = driver.attach()

    reply = driver.allocate(session, 1, TEN, tenant="second", publication="ten")

    assert (reply.computed, unpack_rows(reply.copies, 4)[0][3]) == (9, 1)
    driver.write(session, 1, 10)
    driver.check()


def test_without_a_tail_nothing_is_copied(driver: Driver) -> None:
    """A publication of whole blocks is shared as it is."""
    computed_once(driver, "eight")
    session = driver.attach()

    reply = driver.allocate(session, 1, [*EIGHT, 1], tenant="second", publication="eight")

    assert (reply.computed, reply.copies) == (8, b"")


def test_its_last_token_in_a_full_block_copies_that_block(driver: Driver) -> None:
    """A prompt equal to a publication of whole blocks copies all but the last slot of the last block."""
    computed_once(driver, "eight")
    session = driver.attach()

    reply = driver.allocate(session, 1, EIGHT, tenant="second", publication="eight")

    assert (reply.computed, unpack_rows(reply.copies, 4)[0][3]) == (7, 3)
    driver.write(session, 1, 8)
    driver.check()


def test_blocks_inside_it_are_not_indexed_for_the_tenant(driver: Driver) -> None:
    """Sealing them is answered as done; only the blocks after it enter the tenant's chain."""
    session = driver.attach()
    driver.allocate(session, 1, [*TEN, 7, 8, 9, 9, 9, 9], tenant="first", publication="ten")
    driver.write(session, 1, 16)

    reply = driver.seal(session, 1)

    assert (reply.code, reply.sealed, len(driver.store.state.index)) == (m.OK, 4, 2)
    driver.check()


def test_the_private_chain_continues_behind_it(driver: Driver) -> None:
    """The same tenant hits its sealed blocks behind the publication, and then no tail is copied."""
    first, second = driver.attach(), driver.attach()
    prompt = [*TEN, 7, 8, 9, 9, 9, 9, 1]
    driver.allocate(first, 1, prompt, tenant="t", publication="ten")
    driver.write(first, 1, 17)
    driver.seal(first, 1)
    driver.free(first, 1)

    mine = driver.allocate(second, 1, prompt, tenant="t", publication="ten")
    other = driver.allocate(second, 2, prompt, tenant="u", publication="ten")

    assert (mine.computed, mine.copies) == (16, b"")
    assert (other.computed, len(unpack_rows(other.copies, 4))) == (10, 1)
    driver.check()


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


def test_without_naming_it_nothing_of_it_is_shared(driver: Driver) -> None:
    """A request that does not name the publication, or only begins like it, hits nothing."""
    computed_once(driver)
    session = driver.attach()

    assert driver.allocate(session, 1, [*TEN, 7], tenant="second").computed == 0


def test_two_that_compute_it_at_once_leave_one_publication(driver: Driver) -> None:
    """The first to finish gives its blocks; the second goes on with its own."""
    one, two = driver.attach(), driver.attach()
    for session in (one, two):
        driver.allocate(session, 1, [*TEN, 7, 8, 9], tenant=session.name, publication="ten")
    driver.write(two, 1, 12)
    driver.write(one, 1, 12)

    assert [driver.seal(one, 1).code, driver.seal(two, 1).code] == [m.OK, m.OK]
    found = driver.store.lookup(m.Lookup(publication="ten"))
    assert found is not None
    assert driver.branch(two, 1).table[:3] == list(unpack_u32(found.blocks))
    driver.check()


def test_a_child_that_left_it_early_is_private(driver: Driver) -> None:
    """A fork inside the publication shares the blocks but claims no place behind the publication."""
    computed_once(driver)
    session = driver.attach()
    driver.allocate(session, 1, [*TEN, 8, 8], tenant="t", publication="ten")
    driver.write(session, 1, 12)
    driver.fork(session, 1, 2, 6)
    driver.extend(session, 2, 16)
    driver.write(session, 2, 16, token=2)

    digests = driver.digests("t", driver.branch(session, 2).tokens)
    assert driver.store.seal(session, m.Seal(2, 2, digests[64:])).code == m.UNPUBLISHED
    driver.check()


@pytest.mark.parametrize(
    ("publication", "generation", "code"), [("gone", 1, m.RETRY), ("ten", 2, m.RETRY), ("ten", 1, m.CONFLICT)]
)
def test_a_publication_that_does_not_fit_changes_nothing(
    driver: Driver, publication: str, generation: int, code: int
) -> None:
    """A vanished one or another generation: match again. A request shorter than it: a conflict."""
    session = driver.attach()
    item = m.Allocate(1, "t", 9, publication=publication, publication_generation=generation)

    assert code == driver.store.allocate(session, item).code
    assert not session.sequences


def test_it_survives_every_pressure(driver: Driver) -> None:
    """Its blocks are never evicted, however short space is."""
    found = computed_once(driver)
    session = driver.attach()
    driver.allocate(session, 1, [1] * (29 * 4), tenant="big")

    assert driver.allocate(session, 2, [1], tenant="big").code == m.NO_SPACE
    assert found == driver.store.lookup(m.Lookup(publication="ten"))


def test_usage_is_charged_to_the_domain(driver: Driver) -> None:
    """A publication's blocks are the domain's, the rest the tenants'."""
    computed_once(driver)
    session = driver.attach()
    driver.allocate(session, 1, [*TEN, 8, 8], tenant="second", publication="ten")

    usage = {row.tenant: row for row in driver.store.usage()}

    assert (usage["(public)"].held, usage["second"].held, usage["first"].held) == (3, 1, 0)
    assert (usage["second"].prompt_tokens, usage["second"].cached_tokens, usage["second"].sequences) == (12, 10, 1)


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
