"""What is told: the events of each thing that can happen to a name, and that they add up to the index."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis.stateful import invariant, rule

from quire_kvstore.events.catalogue import Catalogue, Form
from quire_kvstore.ops import publish
from quire_kvstore.sessions.session import Session
from quire_kvstore.sharing.change_log import Journal
from quire_proto.messages import Seal
from quire_proto.wire.digests import DIGEST_BYTES, chain, domain_key, split
from quire_proto.wire.u32 import pack_u32
from tests.kvstore.events.subscriber import AllBlocksCleared, BlockRemoved, BlockStored, Told, View
from tests.proofs.machine import StoreMachine
from tests.proofs.model_sharing import ModelPublication
from tests.proofs.test_machine import run
from tests.support.driver import Driver

ROOT_KEY = bytes(range(32))
SIZE = 4
PROMPT = list(range(10))


def form(tokens: str = "none", hashes: str = "bytes", size: int = SIZE, adapter: str = "") -> Form:
    return Form(size, adapter, tokens, hashes, ROOT_KEY)


class Reading:
    """A driver whose journal is read into a catalogue, and what a router makes of the events."""

    def __init__(self, driver: Driver, form: Form) -> None:
        self.driver, self.catalogue, self.view = driver, Catalogue(form), View()
        self.journal = driver.store.state.index.journal = Journal()

    def read(self) -> list[Told]:
        """Take the journal over; the new events, as a reader decodes them."""
        events = decoded(self.catalogue.apply(self.journal.drain()))
        self.view.apply(events)
        return events


def decoded(events: Any) -> list[Told]:
    """Events as they arrive."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(list(events)), type=list[Told])


def told(tokens: str = "none", hashes: str = "bytes", **options: Any) -> Reading:
    return Reading(Driver(blocks=16, block_size=SIZE, **options), form(tokens, hashes))


def fill(driver: Driver, tokens: list[int], tenant: str, number: int = 1, publication: str = "") -> Session:
    """A sequence with all its tokens written and sealed."""
    session = driver.attach()
    assert driver.allocate(session, number, tokens, tenant, publication).code == 0
    driver.write(session, number, len(tokens))
    driver.seal(session, number)
    return session


def test_a_sealed_run_is_one_event_with_its_parent_and_its_tenant() -> None:
    """Blocks in order, nil before the first, the tenant where its chain begins, no tokens unasked."""
    one = told()
    fill(one.driver, PROMPT, "acme")
    names = split(one.driver.digests("acme", PROMPT))

    assert one.read() == [BlockStored(names, None, [], SIZE, None, "GPU", None, [("acme",), None])]
    assert one.read() == []


def test_tenants_are_not_named_if_they_are_not_to_be() -> None:
    """The same event, without the extra keys."""
    one = told()
    one.catalogue = Catalogue(replace(form(), named=False))
    fill(one.driver, PROMPT, "acme")
    names = split(one.driver.digests("acme", PROMPT))

    assert one.read() == [BlockStored(names, None, [], SIZE, None, "GPU", None)]


def test_a_later_block_names_its_parent() -> None:
    """A chain that grows goes on where it ended, without extra keys."""
    one = told()
    fill(one.driver, PROMPT, "acme")
    one.read()
    fill(one.driver, [*PROMPT, 10, 11, 12], "acme")
    names = split(one.driver.digests("acme", [*PROMPT, 10, 11]))

    assert one.read() == [BlockStored([names[2]], names[1], [], SIZE, None, "GPU", None)]


def test_names_may_be_the_last_eight_bytes_as_a_number() -> None:
    """The same events, with the numbers of the digests' ends."""
    one = told(hashes="int")
    fill(one.driver, PROMPT, "acme")
    names = [int.from_bytes(digest[24:], "big") for digest in split(one.driver.digests("acme", PROMPT))]

    assert list(one.view.parents) == []
    one.read()
    assert one.view.parents == {names[0]: None, names[1]: names[0]}


def test_what_is_evicted_is_removed() -> None:
    """The cache makes way for another prompt, and its names are taken back."""
    one = told()
    session = fill(one.driver, PROMPT, "acme")
    one.driver.free(session, 1)
    one.read()
    fill(one.driver, list(range(100, 164)), "acme")
    events = one.read()

    assert isinstance(events[0], BlockRemoved)
    assert events[0].medium == "GPU"
    assert set(events[0].block_hashes) == set(split(one.driver.digests("acme", PROMPT)))


def test_what_came_and_went_unread_is_not_told() -> None:
    """Two changes of one name between two readings leave nothing."""
    one = told()
    session = fill(one.driver, PROMPT, "acme")
    one.driver.free(session, 1)
    fill(one.driver, list(range(100, 164)), "acme")
    gone = set(split(one.driver.digests("acme", PROMPT)))
    events = one.read()

    assert not [event for event in events if isinstance(event, BlockRemoved)]
    assert not gone & set(one.view.parents)


def test_tokens_are_told_only_if_everybodys_are_wanted() -> None:
    """An engine that names its tokens is passed on under ``all``, and under nothing less."""
    for setting, expected in (("none", []), ("public", []), ("all", PROMPT[:8])):
        one = told(setting)
        session = one.driver.attach()
        one.driver.allocate(session, 1, PROMPT, "acme")
        one.driver.write(session, 1, 10)
        sealed = one.driver.store.seal(session, Seal(1, 0, one.driver.digests("acme", PROMPT), pack_u32(PROMPT[:8])))
        assert sealed.code == 0
        (event,) = one.read()

        assert isinstance(event, BlockStored)
        assert event.token_ids == expected


def test_a_publication_is_told_by_its_domains_chain_when_it_is_ready() -> None:
    """Full blocks under the key that an entitled client can fetch; the public domain has no extra key."""
    one = told("public", publications={"p": PROMPT})
    fill(one.driver, [*PROMPT, 10, 11, 12], "acme", publication="p")
    public = split(chain(domain_key(ROOT_KEY, "group:public", 1), PROMPT, SIZE))
    private = split(one.driver.digests("acme", [*PROMPT, 10, 11]))[2]

    assert one.read() == [
        BlockStored(public, None, PROMPT[:8], SIZE, None, "GPU", None),
        BlockStored([private], public[1], [], SIZE, None, "GPU", None, [("acme",)]),
    ]


def test_unpublishing_takes_back_what_no_other_publication_has() -> None:
    """Two prompts with one beginning: the names they share go with the second of them."""
    longer = [*PROMPT[:8], 50, 51, 52, 53]
    one = told(publications={"p": PROMPT, "q": longer})
    fill(one.driver, PROMPT, "acme", publication="p")
    fill(one.driver, longer, "acme", publication="q")
    one.read()
    names = split(chain(domain_key(ROOT_KEY, "group:public", 1), longer, SIZE))
    state, events = one.driver.store.state, []
    for identity in ("q", "p"):
        publication = state.publications.get(identity)
        assert publication is not None
        publish.unpublish(state, publication)
        events.append(one.read())

    first, second = events
    assert first == [BlockRemoved([names[2]], "GPU")]
    assert second == [BlockRemoved([names[1], names[0]], "GPU")]


def test_a_group_s_tokens_are_not_public() -> None:
    """A group's publication has the group in its extra keys, and its tokens under ``all`` only."""
    for setting, expected in (("public", []), ("all", PROMPT[:8])):
        one = told(setting)
        state = one.driver.store.state
        state.publications.add("g", "agents", PROMPT)
        state.groups.join("acme", "agents")
        fill(one.driver, PROMPT, "acme", publication="g")
        (event,) = one.read()

        assert isinstance(event, BlockStored)
        assert event.token_ids == expected
        assert event.extra_keys == [("(agents)",), None]


def test_everything_is_told_parent_first() -> None:
    """To a new subscriber all is told, in chains, even where a block is older than the publication it hangs on."""
    one = told()
    long = [*PROMPT, 10, 11, 12, 13, 14, 15, 16]
    session = fill(one.driver, long, "acme")
    one.read()
    one.driver.store.state.publications.add("p", "public", PROMPT)
    fill(one.driver, long, "acme", publication="p")
    one.read()
    public = split(chain(domain_key(ROOT_KEY, "group:public", 1), PROMPT, SIZE))
    private = split(one.driver.digests("acme", long))
    assert one.view.parents[private[2]] == public[1]
    fresh = View()
    fresh.apply(decoded(one.catalogue.everything()))
    known: set[Any] = set()
    for event in fresh.log[1:]:
        assert isinstance(event, BlockStored)
        assert event.parent_block_hash is None or event.parent_block_hash in known
        known |= set(event.block_hashes)

    assert isinstance(fresh.log[0], AllBlocksCleared)
    assert fresh.parents == one.view.parents
    assert fresh.keys == {name: one.view.keys[name] for name in fresh.keys}
    assert session.sequences


def test_tokens_of_not_all_blocks_are_refused() -> None:
    """A seal whose tokens do not cover its digests changes nothing."""
    one = told("all")
    session = one.driver.attach()
    one.driver.allocate(session, 1, PROMPT, "acme")
    one.driver.write(session, 1, 10)
    short = Seal(1, 0, one.driver.digests("acme", PROMPT), pack_u32(PROMPT[:4]))

    assert one.driver.store.seal(session, short).code == 2
    assert not one.journal


class EventsMachine(StoreMachine):
    """Whenever the journal is read, a router that applied all events knows exactly what the store can hit."""

    def begin(self, *declared: Any) -> None:
        """Each boot has a stream of its own, and a router that knows nothing."""
        super().begin(*declared)
        size = self.world.store.state.block_size
        self.catalogue, self.view = (
            Catalogue(Form(size, "", "none", "bytes", self.world.service.root_key)),
            View(),
        )
        self.journal = self.world.store.state.index.journal = Journal()
        self.reading = False

    @rule()
    def read(self) -> None:
        """The stream is read."""
        self.view.apply(decoded(self.catalogue.apply(self.journal.drain())))
        self.reading = True

    @invariant()
    def the_view_is_the_index(self) -> None:
        """Right after a reading; between two of them the router is behind."""
        if not self.reading:
            return
        self.reading = False
        entries, known = self.world.store.state.index.entries(), set(self.view.parents)
        ready = {p.id: self.names(p) for p in self.model.sharing.publications.values() if p.table}
        shared = {name for names in ready.values() for name in names}
        assert known == {entry.digest for entry in entries} | shared
        for entry in entries:
            parent = self.view.parents[entry.digest]
            if entry.digest in shared:
                continue
            if entry.anchor is None:
                assert parent == (None if entry.parent == bytes(DIGEST_BYTES) else entry.parent)
            elif entry.anchor in ready and not self.model.sharing.publications[entry.anchor].live:
                assert parent == (ready[entry.anchor][-1] if ready[entry.anchor] else None)

    def names(self, publication: ModelPublication) -> list[bytes]:
        """How the router knows a ready publication's blocks: under the key that its group had when it was ready."""
        for generation in range(1, 2 + self.model.sharing.left[publication.domain]):
            key = domain_key(self.world.service.root_key, f"group:{publication.domain}", generation)
            names = split(chain(key, publication.tokens, self.world.store.state.block_size))
            if set(names) <= set(self.view.parents):
                return names
        raise AssertionError(f"a ready publication was not told: {publication.id}")


def test_events_add_up_to_the_index() -> None:
    """Whatever engines, operators, crashes and the clock do."""
    run(EventsMachine, 25)


def test_a_removal_that_is_not_told_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine fails on a journal that forgets evictions."""
    monkeypatch.setattr(Journal, "removed", lambda *_: None)

    with pytest.raises(AssertionError):
        run(EventsMachine, 500, shrink=False)  # at most: an eviction that is told must come about
