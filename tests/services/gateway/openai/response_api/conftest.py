"""A stage for the Responses API: a gateway of its own, and an engine that plays scripts."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.gateway import GatewayProcess
from tests.support.puppet_stage import Puppet, Stage, fresh, player

KEYS = """
[[tenants]]
name = "acme"
keys = ["sk-acme"]

[[tenants]]
name = "beta"
keys = ["sk-beta"]
"""


@pytest.fixture(scope="package")
def stage(puppet: Puppet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway of two tenants."""
    config = tmp_path_factory.mktemp("keys") / "quire.toml"
    config.write_text(KEYS)
    config.chmod(0o600)
    process = GatewayProcess(puppet[0], config=config).wait()
    yield process, player(process, puppet[1])
    assert process.stop() == 0


@pytest.fixture
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    """The official client of one tenant."""
    fresh(stage)
    with client_of(stage[0], "sk-acme") as it:
        yield it


@pytest.fixture
def other(stage: Stage) -> Iterator[openai.OpenAI]:
    """That of another."""
    with client_of(stage[0], "sk-beta") as it:
        yield it


def client_of(process: GatewayProcess, key: str) -> openai.OpenAI:
    """The official client, without its own retries."""
    return openai.OpenAI(base_url=process.url + "/v1", api_key=key, max_retries=0, timeout=20)
