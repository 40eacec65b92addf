"""Readings: sources of prompt tokens, as many tenants as a server of metrics can keep, and text that is escaped."""

from __future__ import annotations

import asyncio

import pytest

from quire_proto.messages import Stats
from quire_proto.messages.tenants import TenantUsage
from quire_services.gateway.exposition.catalogue import PAGES, TENANTS
from quire_services.gateway.exposition.kvstore_readings import MOST_TENANTS, OTHERS, kvstore_readings, tenant_readings
from quire_services.gateway.exposition.readings import Readings
from tests.services.gateway.exposition.pages import Series, series, value
from tests.support.service import LAYOUT


def shown(readings: Readings) -> Series:
    """What is scraped of them."""
    return series(asyncio.run(readings.text()).decode())


def test_tokens_of_prompts_have_one_source_each() -> None:
    """Of a publication, of other cache, or computed: together all tokens of prompts."""
    counters = {"prompt_tokens": 100, "hit_tokens": 60, "publication_tokens": 25}
    found = shown(kvstore_readings(Stats(b"", "1", LAYOUT, 0, 8, {}, {}, counters, ())))

    sources = ("publication", "cache", "computed")
    assert [value(found, "quire_kvstore_prompt_tokens_total", source=source) for source in sources] == [25, 35, 40]
    assert value(found, "quire_kvstore_evictions_total") == 0


def test_tenants_beyond_the_most_are_one() -> None:
    """Those that are charged most by name, the sum of all others under a name that no tenant can have."""
    usage = tuple(TenantUsage(f"tenant-{n}", n, 1, 1, 10, 5) for n in range(MOST_TENANTS + 20))
    found = shown(tenant_readings(usage))

    names = {dict(labels)["tenant"] for name, labels in found if name == "quire_tenant_sequences"}
    assert len(names) == MOST_TENANTS + 1
    assert "tenant-19" not in names
    assert value(found, "quire_tenant_blocks", tenant=OTHERS, state="held") == sum(range(20))
    assert value(found, "quire_tenant_prompt_tokens_total", tenant=OTHERS) == 200
    assert value(found, "quire_tenant_sequences", tenant="tenant-119") == 1
    assert not any(name == "quire_tenant_limit_blocks" for name, _ in found)


def test_shares_are_those_of_tenants_that_are_shown() -> None:
    """Of a limit that is declared for the cluster; a tenant without one, and one that has nothing here, has none."""
    usage = (TenantUsage("ann", 1, 1, 1, 10, 5), TenantUsage("bob", 1, 1, 1, 10, 5))
    found = shown(tenant_readings(usage, {"ann": 40, "eve": 2}))
    shares = {key: share for key, share in found.items() if key[0] == "quire_tenant_share_blocks"}
    assert shares == {("quire_tenant_share_blocks", (("tenant", "ann"),)): 40}


def test_whatever_a_label_holds_the_page_can_be_read() -> None:
    """Quotes, backslashes and lines are escaped."""
    page, odd = Readings(TENANTS), 'a"b\\c\nd'
    page.add("quire_tenant_sequences", 3, odd)

    assert shown(page) == {("quire_tenant_sequences", (("tenant", odd),)): 3}


def test_what_is_not_in_the_catalogue_cannot_be_shown() -> None:
    """A misspelt name, a label too many and a number for a histogram fail where they are read."""
    page = Readings(PAGES["kvstore"])
    for name, labels in (
        ("quire_kvstore_claim", ()),
        ("quire_kvstore_claims", ("x",)),
        ("quire_kvstore_op_seconds", ("x",)),
    ):
        with pytest.raises((KeyError, AssertionError)):
            page.add(name, 1, *labels)
