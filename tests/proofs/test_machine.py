"""The state machine against the naive model: a short run always, ten thousand steps in CI."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from tests.proofs.machine import StoreMachine
from tests.proofs.model_density import compare_density

STEPS = 50
LONG = 10_000


class DensityMachine(StoreMachine):
    """The same with the default eviction policy."""

    policy = "density"

    @invariant()
    def policy_agrees(self) -> None:
        """What the policy knows is what pool and index know."""
        compare_density(self.world.store.state)


def run(machine: type[StoreMachine], examples: int, shrink: bool = True) -> None:
    """``examples`` runs of at most fifty steps, the same each time; a failing one is made small unless told not to."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", [StoreMachine, DensityMachine])
def test_store_and_model_agree(machine: type[StoreMachine]) -> None:
    """Some two thousand steps of everything that can happen."""
    run(machine, 40)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("machine", [StoreMachine, DensityMachine])
def test_store_and_model_agree_for_ten_thousand_steps(machine: type[StoreMachine]) -> None:
    """The same for 10,000 steps, counted: an example may be shorter than its fifty."""
    before = machine.steps
    run(machine, 3 * LONG // (2 * STEPS))
    print(f"{machine.__name__}: {machine.steps - before} steps")
    assert machine.steps - before >= LONG
