"""Shares of a cluster's limit: how many blocks each node may give to a tenant, by what it uses.

Arithmetic only. Invariants: shares of one answer add up to the limit exactly (a limit of fewer blocks than nodes is one
block a node); each is at least a quarter of an even share, so that no node turns a tenant away that comes to it anew.
A node asks for twice what it uses. What is asked for is given while it fits, and what is left is spread evenly; if it
does not fit, those that ask for least get it, and the others the same (max-min fairness).
"""

from __future__ import annotations

from collections.abc import Mapping

FLOOR_PARTS = 4  # of an even share, one part is a node's whatever it uses


def floor_share(limit: int, nodes: int) -> int:
    """What every node has at least."""
    return max(1, limit // (FLOOR_PARTS * nodes))


def fair_shares(limit: int, uses: Mapping[str, int]) -> dict[str, int]:
    """The shares that these nodes should have.

    Args:
        limit: blocks of the cluster, at least 1.
        uses: blocks that each node has charged to the tenant.
    """
    if not uses:
        return {}
    floor = floor_share(limit, len(uses))
    wants = {node: min(limit, max(floor, 2 * use)) for node, use in sorted(uses.items())}
    given = _fill(max(limit, len(uses)), floor, wants)
    spare, first = divmod(max(limit, len(uses)) - sum(given.values()), len(given))
    return {node: share + spare + (place < first) for place, (node, share) in enumerate(given.items())}


def _fill(limit: int, floor: int, wants: Mapping[str, int]) -> dict[str, int]:
    """What each gets of its wish: all of it up to a level, found from the least wish up."""
    given: dict[str, int] = {}
    left = limit
    for place, (node, want) in enumerate(sorted(wants.items(), key=lambda row: row[1])):
        given[node] = min(want, max(floor, left // (len(wants) - place)))
        left -= given[node]
    return {node: given[node] for node in wants}
