"""What every suite needs to know. It runs in the environment of its framework: nothing of this project is there."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

ADDRESS = os.environ["QUIRE_CLIENTS_URL"]  # without /v1
KEY = "sk-acme"


@pytest.fixture(autouse=True)
def user_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user has in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{ADDRESS}/v1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", ADDRESS)


@pytest.fixture
def address() -> str:
    return ADDRESS


@pytest.fixture
def url(address: str) -> str:
    return f"{address}/v1"


@pytest.fixture
def key() -> str:
    return KEY


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for all tests, as in an application: frameworks keep connections for the next request."""
    yield  # noqa: PT022 - the loop ends when the fixture does
