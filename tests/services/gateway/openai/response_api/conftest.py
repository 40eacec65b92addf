"""A stage for the Responses API: a gateway of its own, and an engine that plays scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tokenizers import Tokenizer

from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine
from tests.support.puppet import LONGEST, links, make_puppet_tokenizer

Stage = tuple[GatewayProcess, PeerEngine]
KEYS = """
[[tenants]]
name = "acme"
keys = ["sk-acme"]

[[tenants]]
name = "beta"
keys = ["sk-beta"]
"""


@pytest.fixture(scope="package")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    """The model's directory, and its tokenizer."""
    folder: Path = tmp_path_factory.mktemp("puppet")
    return folder, make_puppet_tokenizer(folder)


@pytest.fixture(scope="package")
def stage(puppet: tuple[Path, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway of two tenants."""
    config = tmp_path_factory.mktemp("keys") / "quire.toml"
    config.write_text(KEYS)
    config.chmod(0o600)
    process = GatewayProcess(puppet[0], config=config).wait()
    yield process, scripted(process, puppet[1])
    assert process.stop() == 0


def scripted(process: GatewayProcess, tokenizer: Tokenizer) -> PeerEngine:
    """An engine that plays scripts, connected to a gateway."""
    eos = tokenizer.token_to_id("<|im_end|>")
    peer = process.engine(vocab=tokenizer.get_vocab_size(), eos=eos, max_model_len=LONGEST)
    peer.follow = links(tokenizer)
    return peer


@pytest.fixture
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    """The official client of one tenant."""
    stage[1].requests.clear()
    stage[1].load(ready=True)  # or it may have been silent for too long
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
