"""Shares of a cluster's limit: how many blocks each node may give to a tenant, by what it uses.

Arithmetic only. Invariants: shares of one answer add up to the limit exactly (a limit of fewer blocks than nodes is one
block a node); each is at least a quarter of an even share, so that no node turns a tenant away that comes to it anew.
Then come needs, blocks that one request must have on one node: the oldest first, each whole or not at all, as far as
they fit beside the others' floors. Beyond that a node asks for twice what it uses. What is asked for is given while it
fits, and what is left is spread evenly; if it does not fit, those that ask for least get it, and the others the same
(max-min fairness).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

FLOOR_PARTS = 4  # of an even share, one part is a node's whatever it uses


def floor_share(limit: int, nodes: int) -> int:
    """What every node has at least."""
    return max(1, limit // (FLOOR_PARTS * nodes))


def most_share(limit: int, nodes: int) -> int:
    """What one node can have, while all others keep their floor."""
    return max(1, limit - floor_share(limit, nodes) * (nodes - 1))


def least_shares(limit: int, nodes: Collection[str], needs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """What each has before uses are weighed: its floor, or its need.

    Args:
        needs: blocks that a node must have, the oldest need first.
    """
    floor = floor_share(limit, len(nodes))
    least = dict.fromkeys(nodes, floor)
    spare = limit - floor * len(nodes)
    for node, need in needs:
        more = need - least[node]
        if 0 < more <= spare:
            least[node], spare = need, spare - more
    return least


def fair_shares(limit: int, uses: Mapping[str, int], needs: Iterable[tuple[str, int]] = ()) -> dict[str, int]:
    """The shares that these nodes should have.

    Args:
        limit: blocks of the cluster, at least 1.
        uses: blocks that each node has charged to the tenant.
        needs: as in ``least_shares``.
    """
    if not uses:
        return {}
    least = least_shares(limit, uses, needs)
    wants = {node: max(least[node], min(limit, 2 * use)) for node, use in sorted(uses.items())}
    given = _fill(max(limit, len(uses)), least, wants)
    spare, first = divmod(max(limit, len(uses)) - sum(given.values()), len(given))
    return {node: share + spare + (place < first) for place, (node, share) in enumerate(given.items())}


def _fill(limit: int, least: Mapping[str, int], wants: Mapping[str, int]) -> dict[str, int]:
    """What each gets of its wish, beyond the least: all of it up to a level, found from the least wish up."""
    given: dict[str, int] = {}
    left = limit - sum(least.values())
    wishes = sorted((want - least[node], node) for node, want in wants.items())
    for place, (more, node) in enumerate(wishes):
        extra = min(more, left // (len(wants) - place))
        given[node] = least[node] + extra
        left -= extra
    return {node: given[node] for node in wants}
