"""The modelled engine beside one that takes every step, and the model's line through measured steps."""

from __future__ import annotations

import json

import pytest

from bench.cluster.nodes.modelled_engine import NEVER, ModelledEngine
from bench.cluster.nodes.service_model import ServiceModel, measured_model
from bench.report.figures import RESULTS

MODEL = ServiceModel(prefill_tokens_s=1000.0, base_s=0.05, row_s=0.01, chunk_tokens=100, rows=8)


def test_prompts_and_answers_take_what_their_steps_take() -> None:
    """A prompt of three chunks beside a sequence that decodes: each step takes the chunk, the base and the row."""
    engine: ModelledEngine[str] = ModelledEngine(MODEL)
    engine.decode("row", 10)
    engine.compute("prompt", 300)
    together = 0.1 + 0.05 + 0.01
    assert engine.due() == pytest.approx(3 * together)
    engine.advance(engine.due())
    assert engine.computed() == "prompt"
    assert engine.answered() is None
    engine.decode("second", 2)
    assert engine.due() == pytest.approx(3 * together + 2 * (0.05 + 0.02))
    engine.advance(engine.due())
    assert engine.answered() == "second"
    assert engine.lacks() == [("row", 5)]
    engine.advance(engine.due())
    assert engine.answered() == "row"
    assert engine.busy_s == pytest.approx(3 * together + 2 * 0.07 + 5 * 0.06)
    assert engine.due() == NEVER


def test_prompts_are_computed_in_turn() -> None:
    """The second one begins when the first is complete; idle time is not busy time."""
    engine: ModelledEngine[str] = ModelledEngine(MODEL)
    engine.advance(5.0)
    engine.compute("first", 200)
    engine.compute("second", 100)
    assert engine.due() == pytest.approx(5.2)
    engine.advance(engine.due())
    assert (engine.computed(), engine.computed(), engine.prompts()) == ("first", None, ["second"])
    assert engine.due() == pytest.approx(5.3)
    assert engine.busy_s == pytest.approx(0.2)


def test_the_model_goes_through_what_was_measured() -> None:
    """Its decode steps are those of the result on disk, and so is its rate of prompts."""
    figures = json.loads((RESULTS / "engine-125m.json").read_text())["figures"]
    model = measured_model("engine-125m")
    for workload in ("shared-prompt", "private"):
        decode = figures[workload]["decode"]
        assert 1000 * model.step_s(int(decode["rows"]), False) == pytest.approx(decode["step"])
    prefill = figures["private"]["prefill"]
    assert prefill["rows"] / model.prefill_tokens_s == pytest.approx(prefill["step"] / 1000)
    assert measured_model("engine-125m", rows=3).rows == 3
