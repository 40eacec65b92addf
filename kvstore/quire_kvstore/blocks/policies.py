"""The eviction policies a pool can be started with, by name."""

from __future__ import annotations

from collections.abc import Callable

from .density_policy import DensityPolicy
from .eviction import EvictionPolicy, LruPolicy

POLICIES: dict[str, Callable[[int], EvictionPolicy]] = {
    "density": DensityPolicy,
    "lru": lambda _capacity: LruPolicy(),
}


def make_policy(name: str, capacity: int) -> EvictionPolicy:
    """The policy ``name`` for a pool of ``capacity`` blocks. Raises KeyError for a name not in ``POLICIES``."""
    return POLICIES[name](capacity)
