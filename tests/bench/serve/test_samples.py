"""What the serve bench makes of its pairs: medians, ratios within pairs, and sides that failed."""

from __future__ import annotations

import pytest

from bench.serve.samples import Failure, Samples


def rate(tokens: float) -> dict[str, float]:
    return {"output_tokens_per_s": tokens}


def test_ratios_are_taken_within_pairs() -> None:
    """A ratio compares both sides of the same pair; the median over the pairs is reported."""
    samples = Samples(pairs=3)
    for pair, (ours, theirs) in enumerate([(100.0, 50.0), (10.0, 10.0), (300.0, 100.0)]):
        samples.add("quire", "cold", pair, rate(ours))
        samples.add("vllm open", "cold", pair, rate(theirs))

    assert samples.ratios() == {"vllm open cold": {"output_tokens_per_s": 2.0}}
    assert samples.medians()["quire cold"] == rate(100.0)


def test_pair_without_a_side_has_no_ratio() -> None:
    """A side that failed in a pair is compared in the others only, and its table says in how many."""
    samples = Samples(pairs=2)
    samples.add("quire", "cold", 0, rate(100.0))
    samples.add("quire", "cold", 1, rate(10.0))
    samples.add("vllm open", "cold", 1, rate(5.0))
    samples.fail(Failure("vllm open", 0, "its engine died"))

    assert samples.ratios()["vllm open cold"] == {"output_tokens_per_s": 2.0}
    assert "| vllm open cold | 1 of 2 |" in samples.tables("branch")[0][1]
    assert samples.notes("branch") == ["branch, pair 1: vllm open failed: its engine died"]


def test_side_that_never_answered_has_a_row() -> None:
    """A side without any figures stands in the table with dashes and without a ratio."""
    samples = Samples(pairs=1)
    samples.add("quire", "cold", 0, rate(100.0))
    samples.add("transformers generate_batch", "cold", 0, rate(4.0))
    samples.fail(Failure("transformers generate", 0, "no"))

    row = next(line for line in samples.tables("rag")[0][1].splitlines() if "generate " in line)
    assert row.split("|")[2].strip() == "0 of 1"
    assert {cell.strip() for cell in row.split("|")[3:-1]} == {"-"}
    assert list(samples.ratios()) == ["transformers generate_batch cold"]


@pytest.mark.parametrize(("failures", "final", "given_up"), [(1, False, False), (2, False, True), (1, True, True)])
def test_side_is_given_up(failures: int, final: bool, given_up: bool) -> None:
    """A side is asked again after a failure, but not after two, nor after one that would come again."""
    samples = Samples()
    for pair in range(failures):
        samples.fail(Failure("vllm open", pair, "died", final))

    assert samples.given_up("vllm open") is given_up
    assert not samples.given_up("vllm isolated")
