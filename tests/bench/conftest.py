"""What tests of benchmarks share: how a benchmark logs is undone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A benchmark logs to the standard error that there was; other tests have another one."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
