"""What the policy that evicts by density must know of each block: what the pool and the index know, counted anew."""

from __future__ import annotations

from collections import Counter
from typing import Any

from quire_kvstore.blocks.density_policy import NO_PARENT, DensityPolicy


def compare_density(state: Any) -> None:
    """Names, parents, children and heaps are those of the index and the pool; so are the waits that it counts."""
    policy, index = state.pool.policy, state.index
    assert isinstance(policy, DensityPolicy)
    cached = policy.cached()
    assert len(policy) == len(cached) == state.pool.cached, "cached blocks"
    parents = {entry.block: index.find(entry.parent) if entry.anchor is None else None for entry in index.entries()}
    children = Counter(parent.block for parent in parents.values() if parent is not None)
    for entry in index.entries():
        parent = parents[entry.block]
        assert policy._digest[entry.block] == entry.digest, "the name of a block"
        assert policy._parent[entry.block] == (NO_PARENT if parent is None else parent.block), "the parent of a block"
    named = [block for block, digest in enumerate(policy._digest) if digest is not None]
    assert sorted(named) == sorted(parents), "blocks with a name"
    for block in named:
        assert policy._children[block] == children[block], "the children of a block"
    for group, heaps in policy._heaps.items():
        live = {entry & 0xFFFFFFFF for heap in heaps for entry in heap if policy._counts(entry)}
        leaves = {block for block in cached if not children[block]}
        assert live == {block for block in leaves if policy.groups[block] == group}, "the leaves of a group"
    # The model follows each cached block and each digest of the history, and nothing else.
    assert int(policy.model._left.sum()) == len(policy) + len(policy._past), "waits"
    assert int(policy.model._left.min()) == 0, "waits of no class"
