"""Overview: engines, sessions, tenants, counters and latencies as one object, for the page and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from quire_kv import Stats
from quire_proto.messages.tenants import TenantUsage
from quire_services.gateway.admin.engine_rows import engine_row
from quire_services.gateway.generate import Gateway
from quire_services.gateway.link.engine import Engine

MOST_ROWS = 200
LATENCIES = ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds")
COUNTERS = (
    "prompt_tokens", "hit_tokens", "publication_tokens", "computed_tokens", "allocates", "no_space", "evictions",
    "steps", "claimed", "forks", "copies", "fenced", "killed", "not_killed", "reclaimed_sessions",
    "reclaimed_references", "busy_us",
)  # fmt: skip


def overview(gateway: Gateway, stats: Stats | None, tenants: tuple[TenantUsage, ...]) -> dict[str, Any]:
    """All of it; without a kvstore what is its own is left out. Of tenants those that are charged most."""
    engines = gateway.engines
    found = {
        "object": "overview",
        "why_not": engines.why_not(),
        "engines": [engine_row(engine) for engine in engines.all()],
        "held": engines.held,
        "stranded": engines.stranded,
        "moves": dict(engines.moves),
        "latencies": {engine.hello.engine: _latencies(engine) for engine in engines.all() if engine.latencies},
        "kvstore": None,
    }
    if stats is not None:
        found["kvstore"] = _kvstore(stats, tenants)
    return found


def _kvstore(stats: Stats, tenants: tuple[TenantUsage, ...]) -> dict[str, Any]:
    counters, ranked = Counter(stats.counters), sorted(tenants, key=lambda one: one.held + one.cached, reverse=True)
    layout = stats.layout
    return {
        "boot": stats.boot.hex(),
        "version": stats.version,
        "model": layout.model,
        "block_tokens": layout.block_size,
        "block_bytes": layout.block_bytes,
        "uptime_s": stats.uptime_ms / 1000,
        "blocks": stats.blocks,
        "sessions": [asdict(session) for session in stats.sessions],
        "publications": [
            {"id": one.id, "domain": one.domain, "state": one.state, "generation": one.generation}
            for one in stats.publications
        ],
        "claims": stats.claims,
        "waits": stats.waits,
        "counters": {name: counters[name] for name in COUNTERS},
        "tenants": [asdict(one) for one in ranked[:MOST_ROWS]],
        "more_tenants": max(0, len(ranked) - MOST_ROWS),
    }


def _latencies(engine: Engine) -> dict[str, Any]:
    """Distributions by name since its connection; ``since`` tells one connection from another."""
    histograms = engine.latencies.by_name() if engine.latencies else {}
    return {
        "since": engine.since if not engine.drained else 0,
        "pid": engine.hello.pid,
        **{name: asdict(histograms[name].distribution()) for name in LATENCIES if name in histograms},
    }
