"""The proofs can fail: each planted bug is found, and by what."""

from __future__ import annotations

import pytest

from tests.proofs.machine import StoreMachine
from tests.proofs.planted import BUGS, Patch
from tests.proofs.planted_claims import CLAIM_BUGS
from tests.proofs.planted_density import DENSITY_BUGS
from tests.proofs.planted_quotas import QUOTA_BUGS
from tests.proofs.planted_sharing import SHARING_BUGS
from tests.proofs.planted_windows import WINDOW_BUGS
from tests.proofs.test_machine import DensityMachine, run

EXAMPLES = 3000  # at most: some bugs need a rare sequence of ops, and each change of the machine draws others


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "bug", [*BUGS, *CLAIM_BUGS, *SHARING_BUGS, *QUOTA_BUGS, *WINDOW_BUGS], ids=lambda bug: bug.__name__
)
def test_the_machine_finds_a_planted_bug(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine that agrees with the real store fails on the broken one."""
    bug(monkeypatch)

    with pytest.raises(AssertionError) as found:
        run(StoreMachine, EXAMPLES, shrink=False)
    print(f"{bug.__name__}: {str(found.value).splitlines()[:1]}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", DENSITY_BUGS, ids=lambda bug: bug.__name__)
def test_the_machine_finds_a_bug_in_eviction_by_density(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the policy that it is planted in."""
    bug(monkeypatch)

    with pytest.raises(AssertionError):
        run(DensityMachine, EXAMPLES, shrink=False)
