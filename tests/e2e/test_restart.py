"""Declarations outlive processes: tenants, groups and publications after kill -9, and after a stop of the stack."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bench.models.tiny import FIRST_WORD, make_model
from quire_proto.client.client import KVReader
from quire_proto.wire.errors import QuireError
from quire_proto.wire.u32 import pack_u32
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]
CONFIG = "".join(f'[[tenants]]\nname = "{n}"\nkeys = ["sk-{n}"]\n' for n in ("ann", "bob", "eve")).replace(
    '["sk-ann"]', '["sk-ann"]\ngroups = ["research"]'
)
PUBLIC = [FIRST_WORD + (3 * i) % 200 for i in range(69)]
TEAM = [FIRST_WORD + (5 * i) % 200 for i in range(81)]
PROMPTS = {"everybody": PUBLIC, "team": TEAM}


def declare(stack: Stack) -> None:
    """Two prompts, three members of which one leaves, and a quota, all while the stack runs."""
    with KVReader(stack.run_dir) as kvstore:
        for tenant in ("bob", "eve"):
            kvstore.join(tenant, "research")
        kvstore.leave("eve", "research")
        kvstore.publish("everybody", "public", pack_u32(PUBLIC))
        kvstore.publish("team", "research", pack_u32(TEAM))
        kvstore.quota("bob", limit=500, guarantee=100, weight=7)


def declared(stack: Stack) -> Any:
    """All of it, as the kvstore says it; whether a prompt is computed yet is no declaration."""
    with KVReader(stack.run_dir) as kvstore:
        prompts = {p.id: (p.domain, p.tokens) for p in kvstore.fetch_publications().publications}
        quotas = {t.tenant: (t.limit, t.guarantee, t.weight) for t in kvstore.tenants().tenants if t.limit}
        return prompts, kvstore.groups(), quotas


def states(stack: Stack) -> set[str]:
    """States of the publications."""
    return {p.state for p in stack.stats().publications}


def cached(stack: Stack, tenant: str, prompt: list[int]) -> int:
    """Cached tokens of a tenant's request."""
    usage = stack.complete(prompt, max_tokens=2, ignore_eos=True, key=f"sk-{tenant}")["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def who_hits_what(stack: Stack, last: int) -> None:
    """All tenants hit the public prompt, members the group's, each with a last token that makes the request new."""
    for tenant, prompts in (("ann", {"everybody", "team"}), ("bob", {"everybody", "team"}), ("eve", {"everybody"})):
        for name, prompt in PROMPTS.items():
            assert cached(stack, tenant, [*prompt, last]) == (len(prompt) if name in prompts else 0), (tenant, name)


def kill(stack: Stack, *engines: int) -> None:
    """Kill the kvstore, and engines, by SIGKILL; wait until the supervisor has a new kvstore that answers."""
    boot = stack.stats().boot
    for pid in (stack.pid_of("kvstore"), *engines):
        os.kill(pid, signal.SIGKILL)

    def another() -> bool:
        try:
            return stack.stats().boot != boot
        except (QuireError, OSError):  # not there yet
            return False

    wait_for(another, "a new kvstore answers", 60)


@pytest.mark.slow
def test_after_kill_9_the_first_engine_recomputes_what_is_published(tmp_path: Path) -> None:
    """Kvstore and engines killed at once: all declarations stand, and no client need ask for the prompts."""
    model = make_model(tmp_path / "model", vocab=256)
    with running_stack(tmp_path, model, engines=2, config=CONFIG) as stack:
        declare(stack)
        wait_for(lambda: states(stack) == {"ready"}, "the prompts are computed", 60)
        before = declared(stack)
        assert len(before[0]) == 2
        assert before[2] == {"bob": (500, 100, 7)}

        kill(stack, *stack.ready_sessions().values())

        assert declared(stack) == before
        wait_for(lambda: states(stack) == {"ready"}, "the first ready engine computed the prompts again", 90)
        wait_for(lambda: stack.health() == 200, "the gateway has an engine", 60)
        who_hits_what(stack, last=250)


@pytest.mark.slow
def test_until_then_requests_work_uncached(tmp_path: Path) -> None:
    """With no engine to compute prompts unasked, the first request after kill -9 does, and the next ones share."""
    model = make_model(tmp_path / "model", vocab=256)
    with running_stack(tmp_path, model, "--prefill=false", engines=1, config=CONFIG) as stack:
        declare(stack)
        wanted = [stack.complete([*PUBLIC, 9], max_tokens=6, ignore_eos=True, key="sk-ann") for _ in range(2)][1]
        assert wanted["usage"]["prompt_tokens_details"]["cached_tokens"] >= len(PUBLIC)

        kill(stack)

        assert states(stack) == {"pending"}
        wait_for(lambda: stack.ready_sessions() and stack.health() == 200, "the engine attached again", 60)
        first = stack.complete([*PUBLIC, 9], max_tokens=6, ignore_eos=True, key="sk-ann")
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert first["choices"][0]["token_ids"] == wanted["choices"][0]["token_ids"]
        assert cached(stack, "ann", [*TEAM, 9]) == 0
        who_hits_what(stack, last=251)


@pytest.mark.slow
def test_a_stopped_stack_has_it_all_with_a_state_directory(tmp_path: Path) -> None:
    """With --state-dir a clean stop keeps what was declared; the next stack serves it to the same people."""
    model, state = make_model(tmp_path / "model", vocab=256), f"--state-dir={tmp_path / 'state'}"
    with running_stack(tmp_path, model, state, engines=1, config=CONFIG) as stack:
        declare(stack)
        before = declared(stack)
    with running_stack(tmp_path, model, state, engines=1, config=CONFIG) as stack:
        assert declared(stack) == before
        wait_for(lambda: states(stack) == {"ready"}, "the prompts are computed", 60)
        who_hits_what(stack, last=252)
