"""The model of reuse: hazards, densities, groups."""

from __future__ import annotations

import numpy as np
import pytest

from quire_kvstore.blocks.reuse_model import CLASSES, DECAY, FIRST_STEP_S, STEPS, ReuseModel, density


def classes(*numbers: int) -> np.ndarray:
    """An array of classes."""
    return np.array(numbers, np.int64)


def test_density_is_the_best_ratio_over_all_horizons() -> None:
    """A likely hit two steps ahead is worth waiting for; nothing after it is."""
    best = density(np.array([[0.0, 0.5, 0.0]]), np.array([1.0, 2.0, 100.0]))

    assert best[0, 0] == pytest.approx(0.5 / (1.0 + 2.0 * 0.75))
    assert best[0, 1] == pytest.approx(0.5 / (2.0 * 0.75))
    assert best[0, 2] == 0.0


def test_a_model_that_knows_nothing_prefers_the_young() -> None:
    """Without data the score falls with age, as recency would have it, but for the first, wider step."""
    scores = np.array(ReuseModel().scores)

    assert scores.shape == (CLASSES, STEPS)
    assert (np.diff(scores[:, 1:], axis=1) < 0).all()


def test_the_step_of_an_age_is_the_one_it_lies_in() -> None:
    """Edges belong to the step above; an age past the last edge to the last step."""
    model = ReuseModel()

    assert [model.step(0.0), model.step(FIRST_STEP_S), model.step(1e12)] == [0, 1, STEPS - 1]


def test_a_class_whose_waits_end_soon_scores_above_one_whose_never_do() -> None:
    """Reuse after two seconds, against no reuse for an hour."""
    model = ReuseModel()
    for second in range(0, 4000, 10):
        both = classes(3, 3, 5, 5)
        groups = model.begin(both, float(second))
        model.end(groups[:2], both[:2], np.array([2.0, 2.0]))
    model._refresh()

    young = model.step(1.0)
    assert model.scores[3][young] > 10 * model.scores[5][young]


def test_waits_that_go_on_count_as_survived_in_each_step_they_pass() -> None:
    """Three waits of ten seconds, one of which ended in between."""
    model = ReuseModel()
    groups = model.begin(classes(0, 0, 0), 0.0)
    model.end(groups[:1], classes(0), np.array([0.6]))
    model._age(10.0)

    passed = model.step(10.0)
    assert model._survived[0, :passed].tolist() == [2.0] * passed
    assert model._survived[0, passed:].sum() == 0
    assert model._ended[0].sum() == 1.0


def test_the_past_fades() -> None:
    """Each computation of the scores weighs what came before a little less."""
    model = ReuseModel()
    groups = model.begin(classes(0), 0.0)
    model.end(groups, classes(0), np.array([1.0]))
    model._refresh()

    assert model._ended.sum() == pytest.approx(DECAY)


def test_numbers_of_empty_groups_are_used_again() -> None:
    """Ten thousand tables that are reused at once need no more room than a thousand."""
    model = ReuseModel()
    for _ in range(10_000):
        groups = model.begin(classes(0, 1), 0.0)
        model.end(groups, classes(0, 1), np.zeros(2))

    assert len(model._began) <= 4096
