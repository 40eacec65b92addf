"""The store's state machine once more, evicting by density, with a clock that moves."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from quire_kvstore.blocks.density_policy import NONE, DensityPolicy
from tests.kvstore.test_machine import StoreMachine


class DensityMachine(StoreMachine):
    """All the rules of the store; time passes between them."""

    policy = "density"

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    @rule(seconds=st.sampled_from([0.1, 5.0, 300.0]))
    def wait(self, seconds: float) -> None:
        """Blocks grow older."""
        self.seconds += seconds
        self.driver.store.tick(round(self.seconds * 1000))

    @invariant()
    def agrees_with_pool_and_index(self) -> None:
        """Names, parents, children and heaps are those of the index and the pool."""
        state = self.driver.store.state
        policy = state.pool.policy
        assert isinstance(policy, DensityPolicy)
        assert len(policy) == len(policy.cached()) == state.pool.cached
        children = [0] * state.pool.size
        for entry in state.index.entries():
            assert policy._digest[entry.block] == entry.digest
            parent = None if entry.anchor is not None else state.index.find(entry.parent)
            assert policy._parent[entry.block] == (NONE if parent is None else parent.block)
            if parent is not None:
                children[parent.block] += 1
        named = [block for block, digest in enumerate(policy._digest) if digest is not None]
        assert len(named) == len(state.index)
        for block in named:
            assert policy._children[block] == children[block]
        for group, heaps in policy._heaps.items():
            live = {entry & 0xFFFFFFFF for heap in heaps for entry in heap if policy._counts(entry)}
            leaves = {block for block in policy.cached() if not children[block]}
            assert live == {block for block in leaves if policy.groups[block] == group}

    @invariant()
    def waits_are_those_of_cached_and_remembered_blocks(self) -> None:
        """The model follows each cached block and each digest of the history, and nothing else."""
        policy = self.driver.store.state.pool.policy
        assert isinstance(policy, DensityPolicy)
        assert int(policy.model._left.sum()) == len(policy) + len(policy._past)
        assert int(policy.model._left.min()) == 0


TestDensity = DensityMachine.TestCase
TestDensity.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
