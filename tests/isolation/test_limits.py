"""A tenant at its limit is told so over HTTP, and its neighbour notices nothing; quotas by CLI, through a restart."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.models.tiny import make_model
from quire_proto.client.client import KVReader
from quire_proto.messages.tenants import TenantUsage
from quire_proto.wire.errors import QuireError
from tests.isolation.conftest import House
from tests.support.stack import Stack, running_stack
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
LIMIT = 20
CONFIG = "".join(f'[[tenants]]\nname = "{name}"\nkeys = ["sk-{name}"]\n' for name in ("ann", "bob"))


def ask(stack: Stack, tenant: str, prompt: int, answer: int, first: int = 9) -> httpx.Response:
    """A completion of a token prompt in which nothing is shared with another ``first``."""
    body: dict[str, Any] = {"model": "m", "prompt": [first + i % 90 for i in range(prompt)], "max_tokens": answer}
    body |= {"temperature": 0, "ignore_eos": True}
    return stack.http.post("/v1/completions", json=body, headers={"authorization": f"Bearer sk-{tenant}"})


def usage(stack: Stack, tenant: str) -> TenantUsage:
    with KVReader(stack.run_dir) as reader:
        return next(row for row in reader.tenants().tenants if row.tenant == tenant)


@pytest.mark.slow
def test_a_tenant_at_its_limit_is_answered_429_and_the_other_is_served(tmp_path: Path) -> None:
    """429 with Retry-After while its own requests hold its blocks, 400 for what never fits, 200 for the neighbour.

    The quota is set and listed by the CLI, and is still there after kill -9 of the kvstore.
    """
    model = make_model(tmp_path / "model", vocab=256)
    with running_stack(tmp_path, model, engines=1, blocks=256, config=CONFIG) as stack, ThreadPoolExecutor() as pool:
        house = House(stack, tmp_path)
        told = house.quire("tenant", "set", "ann", f"--limit={LIMIT}", "--guarantee=10")
        assert "ann" in told
        long = pool.submit(ask, stack, "ann", 32, 16 * (LIMIT - 4), 9)
        wait_for(lambda: usage(stack, "ann").held >= 2, "the first request runs", 60)

        refused = ask(stack, "ann", 16 * (LIMIT - 1) - 8, 1, 60)
        neighbour = ask(stack, "bob", 16 * (LIMIT + 4), 1, 60)
        never = ask(stack, "ann", 16 * (LIMIT + 4), 1, 100)

        assert refused.status_code == 429, refused.text
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "tenant_limit"
        assert "ann" in refused.json()["error"]["message"]
        assert neighbour.status_code == 200, neighbour.text
        assert never.status_code == 400, never.text
        assert never.json()["error"]["code"] == "tenant_limit_exceeded"
        assert long.result(120).status_code == 200
        wait_for(lambda: usage(stack, "ann").held == 0, "its blocks are only cache", 30)
        again = ask(stack, "ann", 16 * (LIMIT - 1) - 8, 1, 60)
        assert again.status_code == 200, again.text
        assert usage(stack, "ann").cached <= LIMIT

        boot = stack.stats().boot
        os.kill(stack.pid_of("kvstore"), signal.SIGKILL)
        wait_for(lambda: _boot(stack) not in (None, boot), "another kvstore", 90)
        rows = json.loads(house.quire("tenant", "list", "--json"))
        assert next((r["limit"], r["guarantee"]) for r in rows if r["tenant"] == "ann") == (LIMIT, 10)


def _boot(stack: Stack) -> bytes | None:
    try:
        return stack.stats().boot
    except (QuireError, OSError):  # there is none at the moment
        return None
