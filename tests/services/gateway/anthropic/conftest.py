"""Fixtures of the tests of Anthropic's API: a gateway and an engine that plays scripts, and the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest
from tokenizers import Tokenizer

from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine
from tests.support.puppet import LONGEST, links, make_puppet_tokenizer


@pytest.fixture(scope="package")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    """A model directory without weights, and its tokenizer."""
    folder: Path = tmp_path_factory.mktemp("puppet")
    return folder, make_puppet_tokenizer(folder)


@pytest.fixture(scope="package")
def stage(puppet: tuple[Path, Tokenizer]) -> Iterator[tuple[GatewayProcess, PeerEngine]]:
    """A gateway and its engine."""
    folder, tokenizer = puppet
    process = GatewayProcess(folder).wait()
    eos = tokenizer.token_to_id("<|im_end|>")
    peer = process.engine(vocab=tokenizer.get_vocab_size(), eos=eos, max_model_len=LONGEST)
    peer.follow = links(tokenizer)
    yield process, peer
    assert process.stop() == 0


@pytest.fixture
def client(stage: tuple[GatewayProcess, PeerEngine]) -> Iterator[anthropic.Anthropic]:
    """The official client, without its own retries."""
    stage[1].requests.clear()
    stage[1].aborts.clear()
    stage[1].load(ready=True)  # a silent engine is given no work
    with anthropic.Anthropic(base_url=stage[0].url, api_key="any", max_retries=0, timeout=20) as it:
        yield it
