"""The scale bench: exponents of curves."""

from __future__ import annotations

import pytest

from bench.control.scale import exponent


def test_exponent_of_a_curve() -> None:
    """Costs that grow with size have exponent 1, costs that do not have 0; a single point has none."""
    assert exponent([(10.0, 5.0), (100.0, 50.0)]) == pytest.approx(1.0)
    assert exponent([(10.0, 5.0), (100.0, 5.0)]) == pytest.approx(0.0)
    assert exponent([(10.0, 5.0)]) is None
