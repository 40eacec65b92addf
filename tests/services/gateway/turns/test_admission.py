"""How many requests of each tenant may wait: random arrivals. Pure logic."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from quire_services.gateway.turns.admission import Admission
from quire_services.gateway.turns.weights import Weights


class Fixed(Weights):
    """Weights as given."""

    def __init__(self, weights: dict[str, int]) -> None:
        super().__init__()
        self._weights = weights


def filled(admission: Admission, order: str) -> Counter[str]:
    """The tenants that wait after these arrivals."""
    waiting = Counter[str]()
    for tenant in order:
        if not admission.refuses(tenant, waiting):
            waiting[tenant] += 1
    return waiting


def test_a_lone_tenant_has_all_of_it() -> None:
    """As many as fit, and not one more."""
    assert filled(Admission(10, Weights()), "a" * 30) == {"a": 10}


def test_only_the_tenant_that_fills_it_is_refused() -> None:
    """Beside a flood another tenant has its half, by weight."""
    assert filled(Admission(10, Weights()), "a" * 30 + "b" * 30) == {"a": 10, "b": 5}
    assert filled(Admission(10, Fixed({"b": 300})), "a" * 30 + "b" * 30) == {"a": 10, "b": 8}


@given(
    st.text("abcdefgh", max_size=200),
    st.integers(1, 20),
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 500)),
)
def test_any_arrivals(order: str, size: int, weights: dict[str, int]) -> None:
    """The first of a tenant is never refused, none is while there is place, and what waits is bounded."""
    admission, waiting = Admission(size, Fixed(weights)), Counter[str]()
    for tenant in order:
        refused = admission.refuses(tenant, waiting)
        assert not (refused and (waiting.total() < size or not waiting[tenant]))
        waiting[tenant] += not refused
    assert waiting.total() <= size * len(waiting)
