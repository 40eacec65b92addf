"""Tool calls and reasoning go on in another engine: their parser has seen what came before."""

from __future__ import annotations

import pytest

from tests.services.gateway.failover.test_failover import answer, comparable, disturbed
from tests.support.gateway import GatewayProcess
from tests.support.puppet import SCRIPTS, links
from tests.support.puppet_chats import ask
from tests.support.puppet_stage import Puppet, about_puppet, player
from tests.support.waits import wait_for


@pytest.mark.parametrize("every", [2, 5])
def test_a_call_is_the_same_wherever_its_engines_die(puppet: Puppet, every: int) -> None:
    """Calls, several of them, text before them and reasoning, in two choices each, bytes and end."""
    folder, tokenizer = puppet
    options = about_puppet(tokenizer)
    process = GatewayProcess(folder, "--hold-s=20").wait()
    deaths = 0
    try:
        for script in sorted(SCRIPTS.keys() - {"broken"}):
            asked = ask(script, n=2)
            one = player(process, tokenizer)
            one.cached_tokens = 3
            whole = answer(process, asked)
            one.close()
            wait_for(lambda: process.health()["engines"]["connected"] == 0, "the engine is gone")
            again, engines = disturbed(process, asked, every, follow=links(tokenizer), **options)
            assert comparable(again) == comparable(whole), script
            deaths += len(engines) - 1
        assert deaths > len(SCRIPTS)
    finally:
        process.stop()
