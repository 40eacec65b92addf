"""Two stacks of one store: what is declared once is true on both, soon, later, and while the store is away."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from bench.models.tiny import make_model
from quire_services.cluster.declarations.follower import BOUND_S
from quire_services.config.key_digests import key_digest
from tests.support.declared_nodes import DeclaredNode, declare, declared_node
from tests.support.gateway import write_tokenizer
from tests.support.valkey_server import StoreServer, store_server
from tests.support.waits import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(900)]
LIMIT = 160  # blocks
PROMPT = "You are a careful agent. " * 8
DECLARED = """
[[tenants]]
name = "ann"
keys = ["sk-ann", "sk-ann-2"]
groups = ["research"]
limit = 200
guarantee = 20

[[tenants]]
name = "bob"
keys = ["sk-bob"]

[[published]]
id = "agent"
file = "agent.txt"
domain = "research"
"""


class Cluster:
    """A store, and what is declared in it."""

    def __init__(self, folder: Path, model: Path, server: StoreServer) -> None:
        self.folder, self.model, self.server = folder, model, server
        self.store = f"{server.url}?cluster=agents"
        (folder / "agent.txt").write_text(PROMPT)
        self.say(DECLARED)

    def say(self, text: str, *flags: str) -> str:
        """Declare this."""
        (self.folder / "declared.toml").write_text(text)
        return declare(self.store, "apply", self.folder / "declared.toml", *flags)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    model = make_model(folder / "model", vocab=320)
    write_tokenizer(model)
    with store_server(folder) as server:
        yield Cluster(folder, model, server)


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> Iterator[list[DeclaredNode]]:
    """Two nodes that join what was declared before."""
    with ExitStack() as stack:
        folder, model, store = cluster.folder, cluster.model, cluster.store
        both = [stack.enter_context(declared_node(folder / name, model, store, name, ready=False)) for name in "ab"]
        for node in both:
            node.stack.says("ready: http", seconds=600)
            node.stack.stats()
        yield both


def within_the_bound(true: Callable[[], object], what: str) -> None:
    wait_for(true, f"{what} within {BOUND_S} s of the write", BOUND_S)


def test_what_is_declared_once_is_true_on_every_node(cluster: Cluster, nodes: list[DeclaredNode]) -> None:
    """A node begins with the keys; groups, quotas and prompts follow; a prompt is computed once on each, unasked."""
    for node in nodes:
        assert [node.status(key) for key in ("sk-ann", "sk-ann-2", "sk-bob", "sk-eve", "x")] == [
            200,
            200,
            200,
            401,
            401,
        ]
        members = [(row["group"], row["tenant"]) for row in node.admin("groups")]
        assert members == [("research", "ann")]
        wait_for(lambda node=node: [row["state"] for row in node.admin("publications")] == ["ready"], "it is computed")
    wait_for(lambda: declare(cluster.store, "nodes").count(" joined") == 2, "both have all of it")

    (published,) = {row["tokens"] for node in nodes for row in node.admin("publications")}
    for node in nodes:
        before = node.computed_tokens()
        chat = {"model": "m", "max_tokens": 1, "messages": [{"role": "system", "content": PROMPT}]}
        chat["messages"] = [*chat["messages"], {"role": "user", "content": "go"}]  # type: ignore[misc]
        answer = node.stack.http.post("/v1/chat/completions", json=chat, headers={"authorization": "Bearer sk-ann"})
        usage = answer.raise_for_status().json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == published
        assert node.computed_tokens() - before < published

    for node in nodes:
        (row,) = [row for row in node.admin("tenants") if row["tenant"] == "ann"]
        assert 0 < row["limit"] <= 200
    limits = [row["limit"] for node in nodes for row in node.admin("tenants") if row["tenant"] == "ann"]
    assert sum(limits) <= 200

    assert cluster.say(DECLARED.replace('"sk-bob"]', '"sk-bob", "sk-new"]')).startswith("1 written")
    within_the_bound(lambda: [node.status("sk-new") for node in nodes] == [200, 200], "a new key opens both")
    assert declare_revoked(cluster, "sk-ann-2").startswith("revoked sha256:")
    within_the_bound(lambda: [node.status("sk-ann-2") for node in nodes] == [401, 401], "a revoked key opens none")
    assert [node.status("sk-ann") for node in nodes] == [200, 200]

    alone = DECLARED.partition("[[published]]")[0].replace('groups = ["research"]', "")
    assert cluster.say(alone.replace(', "sk-ann-2"', ""), "--prune").startswith("0 written, 3 deleted")
    within_the_bound(lambda: not any(node.admin("groups") for node in nodes), "a membership ends")
    wait_for(lambda: not any(node.admin("publications") for node in nodes), "what was published is taken back")


def test_a_quota_holds_under_a_flood_on_one_node(cluster: Cluster, nodes: list[DeclaredNode]) -> None:
    """Its share follows the flood to seven eighths of the limit; the other keeps one; the sum stays within it."""
    node_a, node_b = nodes
    cluster.say(f'[[tenants]]\nname = "flood"\nkeys = ["sk-flood"]\nlimit = {LIMIT}\n')
    within_the_bound(lambda: [node.status("sk-flood") for node in nodes] == [200, 200], "its key")

    def account(node: DeclaredNode) -> dict[str, int]:
        rows = [row for row in node.admin("tenants") if row["tenant"] == "flood"]
        return {**dict.fromkeys(("limit", "held", "cached"), 0), **(rows[0] if rows else {})}

    wait_for(lambda: min(account(node)["limit"] for node in nodes) > 1, "both have a share")
    most, last = 0, account(node_b)
    began = time.monotonic()
    while account(node_a)["limit"] < LIMIT * 7 // 8 - LIMIT // 16 and time.monotonic() < began + 60:
        for _ in range(8):  # each another prompt of four blocks, which stay in the cache
            prompt = [random.randrange(5, 300) for _ in range(64)]
            assert node_a.ask("sk-flood", prompt).status_code in (200, 429)
        first = account(node_a)
        last = account(node_b)  # idle, so what it has only falls
        most = max(most, sum(row["held"] + row["cached"] for row in (first, last)))
        assert first["limit"] + last["limit"] <= LIMIT + 1  # what runs may hold more than a lowered share
    first = account(node_a)
    assert first["limit"] >= LIMIT * 7 // 8 - LIMIT // 16
    assert last["limit"] >= LIMIT // 8
    assert LIMIT // 2 < most <= LIMIT + 1
    assert node_b.ask("sk-flood", [7] * 64).status_code == 200


def test_a_request_beyond_its_node_s_share_is_served_when_it_comes_again(
    cluster: Cluster, nodes: list[DeclaredNode]
) -> None:
    """While the other node's share is only cache: 429 with Retry-After first, then 200, within the limit in sum; what
    is more than one node can have is 400 at once."""
    cluster.say(f'[[tenants]]\nname = "large"\nkeys = ["sk-large"]\nlimit = {LIMIT}\n')
    within_the_bound(lambda: [node.status("sk-large") for node in nodes] == [200, 200], "its key")

    def limit(node: DeclaredNode) -> int:
        return next((row["limit"] for row in node.admin("tenants") if row["tenant"] == "large"), 0)

    wait_for(lambda: min(map(limit, nodes)) > 1 and sum(map(limit, nodes)) > LIMIT * 9 // 10, "all of it is shared out")
    here, other = nodes
    wait_for(lambda: limit(here) < LIMIT * 5 // 8, "this node has about half")
    prompt = [random.randrange(5, 300) for _ in range(16 * (LIMIT * 3 // 4))]
    never = other.ask("sk-large", [random.randrange(5, 300) for _ in range(16 * (LIMIT - 2))])
    assert (never.status_code, never.json()["error"]["code"]) == (400, "tenant_limit_exceeded")

    def refused() -> httpx.Response | None:
        answer = here.ask("sk-large", prompt)
        return None if answer.status_code == 400 else answer  # its gateway has not heard of the limit yet

    first = wait_for(refused, "it may come again")
    assert (first.status_code, first.json()["error"]["code"]) == (429, "tenant_limit")
    assert 5 <= int(first.headers["retry-after"]) <= 8
    until = time.monotonic() + 3 * 8
    while (again := here.ask("sk-large", prompt)).status_code == 429 and time.monotonic() < until:
        assert sum(map(limit, nodes)) <= LIMIT + 1
    assert again.status_code == 200, again.text
    assert sum(map(limit, nodes)) <= LIMIT + 1


def test_a_store_that_is_away_changes_nothing(cluster: Cluster, nodes: list[DeclaredNode]) -> None:
    """Nodes go on, one that starts anew has what it knew, and all follow the store again when it is back, and empty."""
    cluster.say('[[tenants]]\nname = "ann"\nkeys = ["sk-ann"]\n')
    within_the_bound(lambda: [node.status("sk-ann") for node in nodes] == [200, 200], "it is declared")
    cluster.server.stop()
    for node in nodes:
        node.stack.says("the store does not answer")
    nodes[1].restart()
    assert [node.status("sk-ann") for node in nodes] == [200, 200]
    assert [node.status("sk-ann-2") for node in nodes] == [401, 401]

    cluster.server.start()
    for node in nodes:
        node.stack.says('"part": "store", "event": "declarations_again"')
    assert [node.status("sk-ann") for node in nodes] == [200, 200]
    cluster.say('[[tenants]]\nname = "ann"\nkeys = ["sk-back"]\n')
    within_the_bound(lambda: [node.status("sk-back") for node in nodes] == [200, 200], "the store is followed")
    assert [node.status("sk-ann") for node in nodes] == [200, 200]


def declare_revoked(cluster: Cluster, key: str) -> str:
    """End a key, by its digest."""
    return declare(cluster.store, "revoke", f"sha256:{key_digest(key).hex()[:16]}")
