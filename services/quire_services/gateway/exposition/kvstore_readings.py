"""What the kvstore says of itself (``stats``, ``tenants``) as readings: its own numbers under the catalogue's names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from quire_kv import Stats
from quire_proto.messages.tenants import TenantUsage

from .catalogue import KVSTORE, TENANTS
from .readings import Readings

BLOCK_STATES = ("free", "held", "cached", "quarantined")
SESSION_STATES = ("attached", "ready", "fenced")
WEIGHTS_STATES = ("claimed", "sealed", "idle", "abandoned")
PUBLICATION_STATES = ("pending", "ready")
# Counters that are shown under their own names.
KVSTORE_COUNTERS = (
    "computed_tokens", "allocates", "no_space", "evictions", "seals", "duplicates", "extends", "forks", "copies",
    "left_behind", "claimed", "adopted", "attached", "fenced", "killed", "not_killed", "reclaimed_sessions",
    "reclaimed_references", "messages", "errors", "bad_frames", "internal_errors", "resends", "busy_replies",
    "unsent_replies", "steps",
)  # fmt: skip
MOST_TENANTS = 100
OTHERS = "(others)"


def kvstore_readings(stats: Stats) -> Readings:
    """The page of the kvstore."""
    page = Readings(KVSTORE)
    layout, counters = stats.layout, Counter(stats.counters)  # one that it lacks counts as 0
    page.add("quire_kvstore_info", 1, stats.version, layout.model, layout.dtype)
    page.add("quire_kvstore_uptime_seconds", stats.uptime_ms / 1000)
    for state in BLOCK_STATES:
        page.add("quire_kvstore_blocks", stats.blocks.get(state, 0), state)
    page.add("quire_kvstore_block_tokens", layout.block_size)
    page.add("quire_kvstore_block_bytes", layout.block_bytes)
    _add_peers(page, stats)
    page.add("quire_kvstore_claims", stats.claims)
    page.add("quire_kvstore_waits", stats.waits)
    for state in WEIGHTS_STATES:
        page.add("quire_kvstore_weights_bytes", sum(one.size for one in stats.weights if one.state == state), state)
    page.add("quire_kvstore_weights_readers", sum(one.readers for one in stats.weights))
    sources = {
        "publication": counters["publication_tokens"],
        "cache": counters["hit_tokens"] - counters["publication_tokens"],
        "computed": counters["prompt_tokens"] - counters["hit_tokens"],
    }
    for source, tokens in sources.items():
        page.add("quire_kvstore_prompt_tokens_total", tokens, source)
    for name in KVSTORE_COUNTERS:
        page.add(f"quire_kvstore_{name}_total", counters[name])
    page.add("quire_kvstore_waited_total", counters["waits"])
    page.add("quire_kvstore_busy_seconds_total", counters["busy_us"] / 1e6)
    for op, times in stats.op_times.items():
        page.add("quire_kvstore_op_seconds", times, op)
    return page


def _add_peers(page: Readings, stats: Stats) -> None:
    """Sessions and publications."""
    sessions = Counter(session.state for session in stats.sessions)
    for state in SESSION_STATES:
        page.add("quire_kvstore_sessions", sessions[state], state)
    page.add("quire_kvstore_sequences", sum(session.sequences for session in stats.sessions))
    if stats.sessions:
        page.add("quire_kvstore_shortest_lease_seconds", min(one.lease_ms_left for one in stats.sessions) / 1000)
    publications = Counter(publication.state for publication in stats.publications)
    for state in PUBLICATION_STATES:
        page.add("quire_kvstore_publications", publications[state], state)


def tenant_readings(usage: tuple[TenantUsage, ...], shares: Mapping[str, int] | None = None) -> Readings:
    """The page of tenants: those that are charged most, and all others in one sum, so that a label has no more values
    than a server of metrics can keep. ``shares``: of limits of the cluster, by tenant."""
    page = Readings(TENANTS)
    ranked = sorted(usage, key=lambda one: (one.held + one.cached, one.prompt_tokens), reverse=True)
    shown, others = ranked[:MOST_TENANTS], ranked[MOST_TENANTS:]
    for one in shown:
        _add_tenant(page, one)
        page.add("quire_tenant_guarantee_blocks", one.guarantee, one.tenant)
        if one.limit:
            page.add("quire_tenant_limit_blocks", one.limit, one.tenant)
        if shares and one.tenant in shares:
            page.add("quire_tenant_share_blocks", shares[one.tenant], one.tenant)
    if others:
        names = ("held", "cached", "sequences", "prompt_tokens", "cached_tokens")
        _add_tenant(page, TenantUsage(OTHERS, *(sum(getattr(one, name) for one in others) for name in names)))
    return page


def _add_tenant(page: Readings, one: TenantUsage) -> None:
    page.add("quire_tenant_blocks", one.held, one.tenant, "held")
    page.add("quire_tenant_blocks", one.cached, one.tenant, "cached")
    page.add("quire_tenant_sequences", one.sequences, one.tenant)
    page.add("quire_tenant_prompt_tokens_total", one.prompt_tokens, one.tenant)
    page.add("quire_tenant_cached_tokens_total", one.cached_tokens, one.tenant)
