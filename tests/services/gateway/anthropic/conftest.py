"""Fixtures of the tests of Anthropic's API: the official client of a stage."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest

from tests.support.puppet_stage import Stage, fresh


@pytest.fixture
def client(stage: Stage) -> Iterator[anthropic.Anthropic]:
    """The official client, without its own retries."""
    fresh(stage)
    with anthropic.Anthropic(base_url=stage[0].url, api_key="any", max_retries=0, timeout=20) as it:
        yield it
