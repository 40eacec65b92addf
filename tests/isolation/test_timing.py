"""Time to first token tells no tenant what another has asked.

A prober sends, in random order, a prompt that its victim has just sent and one that no tenant has: the pair's
difference is what it can learn. The verdict is that of ``medians``: the two are the *same* if the whole 99.9 %
interval of the median difference lies within a quarter of what a hit saves, measured in the same pairs. The same
procedure must find them *different* where both tenants may share the victim's prompt: a test that cannot see a hit
proves nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bench.models.tiny import FIRST_WORD, make_model
from quire_proto.client.client import KVReader
from quire_proto.wire.u32 import pack_u32
from tests.isolation.medians import interval, verdict
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

VOCAB, LENGTH = 256, 1200
TENANTS = "".join(f'[[tenants]]\nname = "{n}"\nkeys = ["sk-{n}"]\ngroups = ["both"]\n' for n in ("victim", "prober"))


def test_the_interval_is_the_sign_tests() -> None:
    """Known values for ten differences; too few say nothing; outliers do not move it."""
    assert interval([float(i) for i in range(10)], 0.05) == (1.0, 8.0)
    assert interval([float(i) for i in range(10)], 0.001) == (float("-inf"), float("inf"))
    assert interval([0.0] * 30 + [1e9] * 3, 0.001) == (0.0, 0.0)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "same"), (-0.1, "different"), (-0.025, "unknown")])
def test_the_verdict_can_be_each_of_three(shift: float, expected: str) -> None:
    """No difference, a hit's, and one exactly at the margin, in noise with rare stalls of a second."""
    rng = random.Random(1)

    def measure() -> tuple[float, float]:
        noise = rng.gauss(0, 0.02) + (rng.random() < 0.1) * rng.choice((-1, 1))
        return shift + noise, 0.1 + rng.gauss(0, 0.02)

    assert verdict(measure)[0] == expected


class Prober:
    """Measures pairs on a running stack."""

    def __init__(self, stack: Stack, shared: bool) -> None:
        self._stack, self._shared, self._rng = stack, shared, random.Random(time.time_ns())
        self._count = 0

    def prompt(self) -> list[int]:
        """One that was never sent."""
        return [self._rng.randrange(FIRST_WORD, VOCAB) for _ in range(LENGTH)]

    def first_token_s(self, tenant: str, prompt: list[int]) -> float:
        """Seconds from the request to the first streamed token."""
        body = {"model": "m", "prompt": prompt, "max_tokens": 1, "ignore_eos": True, "stream": True}
        headers = {"authorization": f"Bearer sk-{tenant}"}
        began = time.perf_counter()
        with self._stack.http.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            times = [time.perf_counter() - began for line in answer.iter_lines() if line.startswith("data: {")]
        return times[0]

    def overlapping_pair(self) -> tuple[float, float]:
        """As ``pair``, but probed while the victim's prompt is still being computed: one may wait for its own only."""
        known, other, new = self.prompt(), self.prompt(), self.prompt()
        times: dict[int, float] = {}
        probes = [(known, known), (other, new)]
        self._rng.shuffle(probes)
        with ThreadPoolExecutor(1) as victim:
            for sent, probe in probes:
                allocates = self._allocates()
                sending = victim.submit(self.first_token_s, "victim", sent)
                wait_for(partial(self._allocates, beyond=allocates), "the victim's prompt is being computed", 60)
                times[id(probe)] = self.first_token_s("prober", probe)
                sending.result()
        alone = self.prompt()
        saved = self.first_token_s("prober", alone) - self.first_token_s("prober", alone)
        return times[id(known)] - times[id(new)], saved

    def _allocates(self, beyond: int = 0) -> int:
        """How many allocates the kvstore has granted, 0 if no more than ``beyond``."""
        granted = self._stack.stats().counters["allocates"]
        return granted if granted > beyond else 0

    def pair(self) -> tuple[float, float]:
        """How much sooner the victim's prompt is answered than a new one (negative), and what a hit saves."""
        known, new = self.prompt(), self.prompt()
        publication = self._publish(known) if self._shared else ""
        self.first_token_s("victim", known)
        order = [known, new]
        self._rng.shuffle(order)
        times = {id(prompt): self.first_token_s("prober", prompt) for prompt in order}
        again = self.first_token_s("prober", new)
        if publication:
            with KVReader(self._stack.run_dir) as reader:
                reader.unpublish(publication)
        return times[id(known)] - times[id(new)], times[id(new)] - again

    def _publish(self, prompt: list[int]) -> str:
        self._count += 1
        name = f"known-{self._count}"
        with KVReader(self._stack.run_dir) as reader:
            reader.publish(name, "both", pack_u32(prompt[: LENGTH - 20]))
            wait_for(lambda: reader.lookup(publication=name).tokens, "the publication is computed", 60)
        return name


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("timing")
    model = make_model(folder / "model", vocab=VOCAB, layers=4, hidden=256, heads=8, kv_heads=4)
    with running_stack(folder, model, engines=1, blocks=2048, config=TENANTS) as started:
        prober = Prober(started, shared=False)
        for _ in range(3):  # warm up: libraries, workspaces, connections
            prober.pair()
        yield started


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("shared", "expected"), [(False, "same"), (True, "different")])
def test_what_another_tenant_has_asked_cannot_be_told_by_time(stack: Stack, shared: bool, expected: str) -> None:
    """A private prompt of the victim's is no faster than a new one; a shared one is, and this test sees it."""
    found, figures = verdict(Prober(stack, shared).pair)

    print(f"\n{'shared' if shared else 'private'}: {found}, {figures}")
    assert found == expected, figures


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_another_tenant_is_asking_cannot_be_told_by_time(stack: Stack) -> None:
    """Nor while it is being computed: no tenant waits for what another computes."""
    found, figures = verdict(Prober(stack, shared=False).overlapping_pair)

    print(f"\nstill computing: {found}, {figures}")
    assert found == "same", figures
