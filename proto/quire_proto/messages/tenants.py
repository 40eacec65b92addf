"""Bodies about tenants: what each has, and what it may have. All numbers are blocks unless they say otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """Blocks of one account, its counters, and its quota (limit 0: none)."""

    tenant: str
    held: int
    cached: int
    sequences: int
    prompt_tokens: int
    cached_tokens: int
    limit: int = 0
    guarantee: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Tenants:
    """Reply to ``tenants``."""

    tenants: tuple[TenantUsage, ...]


@dataclass(frozen=True, slots=True)
class SetQuota:
    """Declare the quota of a tenant, all of it: what is left out takes its default."""

    tenant: str
    limit: int = 0
    guarantee: int = 0
    weight: int = 100
