"""A stage for the puppet (``puppet``): a gateway over its tokenizer, and an engine without a model that plays it.

As fixtures, one for many tests; the conftest of a folder that wants them imports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine
from tests.support.puppet import END, LONGEST, links, make_puppet_tokenizer

Puppet = tuple[Path, Tokenizer]  # a model directory without weights, and its tokenizer
Stage = tuple[GatewayProcess, PeerEngine]


@pytest.fixture(scope="session")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> Puppet:
    """The puppet."""
    folder: Path = tmp_path_factory.mktemp("puppet")
    return folder, make_puppet_tokenizer(folder)


@pytest.fixture(scope="session")
def stage(puppet: Puppet) -> Iterator[Stage]:
    """A gateway without tenants, and its engine."""
    process = GatewayProcess(puppet[0]).wait()
    yield process, player(process, puppet[1])
    assert process.stop() == 0


def player(process: GatewayProcess, tokenizer: Tokenizer) -> PeerEngine:
    """An engine that plays scripts, connected to a gateway."""
    peer = process.engine(**about_puppet(tokenizer))
    peer.follow = links(tokenizer)
    return peer


def about_puppet(tokenizer: Tokenizer) -> dict[str, Any]:
    """What its engine says of itself."""
    return {"vocab": tokenizer.get_vocab_size(), "eos": tokenizer.token_to_id(END), "max_model_len": LONGEST}


def fresh(stage: Stage) -> PeerEngine:
    """The engine as a test finds it: nothing asked yet."""
    peer = stage[1]
    peer.requests.clear()
    peer.aborts.clear()
    return peer
