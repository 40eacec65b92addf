"""The official client, as its users make it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    """Without its own retries."""
    with openai.OpenAI(max_retries=0) as made:
        yield made
