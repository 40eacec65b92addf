"""Fixtures of one gateway for many tests; the conftest of a folder that wants them imports them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.support.gateway import GatewayProcess, write_tokenizer


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that has what the gateway reads."""
    folder: Path = tmp_path_factory.mktemp("tiny-model")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Tokenizer:
    """The tokenizer of ``model``."""
    return Tokenizer.from_file(str(model / "tokenizer.json"))


@pytest.fixture(scope="session")
def gateway(model: Path) -> Iterator[GatewayProcess]:
    """One gateway for all tests that need none of their own; each connects its own engines, and the next test's is not
    waited for."""
    process = GatewayProcess(model, "--hold-s=0").wait()
    yield process
    assert process.stop() == 0
