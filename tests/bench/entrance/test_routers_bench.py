"""The bench of routers: what it sends, what it makes of answers, and one tiny run behind real entrances."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from bench.entrance import added_latency, routers
from bench.entrance.router_programs import PACKAGES, router_program
from bench.load.agents import TENANTS, Agent
from bench.load.generator import Endpoint
from bench.load.stream import Answer
from bench.load.tenant_agents import TenantTraffic, tenant_agents
from bench.processes.side import SideError
from bench.report.figures import Report
from bench.servers.entrance import ChatRoute, chat_routes
from quire_services.cluster.entrance.entrance import PROGRAMS
from tests.routers.test_routers import MADE
from tests.support.client_environments import client_environment
from tests.support.repository import ROOT

WORDS = tuple(f"w{number}" for number in range(500))


def test_agents_share_their_tenants_system_prompt_alone() -> None:
    """A seed gives the same agents each time and another seed others; as many of each tenant, in the order of their
    beginnings, each with turns of its own."""
    traffic = TenantTraffic(agents=24, turns=3, system=40, turn=10, answer=5, span_s=7.0)
    agents = tenant_agents(traffic, 3, WORDS)
    assert agents == tenant_agents(traffic, 3, WORDS)
    assert not {agent.system for agent in agents} & {agent.system for agent in tenant_agents(traffic, 4, WORDS)}

    systems = defaultdict(set)
    for agent in agents:
        systems[agent.tenant].add(agent.system)
    assert [len(found) for found in systems.values()] == [1] * TENANTS
    assert len({agent.system for agent in agents}) == TENANTS
    assert len({turn for agent in agents for turn in agent.turns}) == 24 * 3
    starts = [agent.start_s for agent in agents]
    assert starts == sorted(starts)
    salted = tenant_agents(traffic, 3, WORDS, "w9")
    assert [agent.system for agent in salted] == [f"w9 {agent.system}" for agent in agents]
    assert [(agent.start_s, agent.turns) for agent in salted] == [(agent.start_s, agent.turns) for agent in agents]
    assert 0 <= starts[0] < starts[-1] <= 7.0


def test_chats_are_read_from_the_log_of_an_entrance() -> None:
    """The node that answered, the last one asked, and whether the router chose; no other line counts."""
    chat = {"event": "request", "path": "/v1/chat/completions", "routed": True}
    lines = [
        "not JSON",
        json.dumps({"event": "entrance", "port": 1}),
        json.dumps(chat | {"nodes": ["a"]}),
        json.dumps(chat | {"nodes": ["a", "b"], "routed": False}),
        json.dumps(chat | {"nodes": []}),
        json.dumps(chat | {"path": "/v1/models", "nodes": ["a"]}),
    ]
    routes = chat_routes("\n".join(lines))
    assert routes == [ChatRoute("a", True), ChatRoute("b", False)]
    assert routers.spread([*routes, ChatRoute("a", True)]) == {"busiest_share": 2 / 3, "chosen_share": 2 / 3}


def answered(first: float, whole: float, cached: int = 95) -> Answer:
    return Answer(10.0, 10.0 + whole, {0: [10.0 + first]}, {0: "w1"}, prompt=100, cached=cached, output=1)


def test_added_latency_is_a_difference_of_medians() -> None:
    """To the first token and to the end, of each way against the direct one."""
    found = added_latency.latency_summary(
        {
            "directly": [answered(0.010, 0.050), answered(0.020, 0.060), answered(0.900, 0.960)],
            "round-robin": [answered(0.024, 0.065), answered(0.700, 0.800), answered(0.022, 0.064)],
        }
    )
    assert found["round-robin"]["first_ms"] == pytest.approx(24)
    assert found["round-robin"]["added_first_ms"] == pytest.approx(4)
    assert found["round-robin"]["added_whole_ms"] == pytest.approx(5)
    assert found["directly"]["added_first_ms"] == 0


def test_requests_go_each_way_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prompt is sent to every node twice first; then each request goes each way, another one first each time; one
    that was not cached ends it."""
    sent: list[int] = []
    cached = 95

    def play(agents: tuple[Agent, ...], target: Endpoint) -> list[list[Answer]]:
        sent.append(target.port)
        return [[answered(0.01 * target.port, 0.05, cached)] for _ in agents]

    monkeypatch.setattr(added_latency, "play", play)
    one, other, way = (Endpoint("", port, "m", str, lambda _: {}) for port in (1, 2, 3))
    agents = [Agent(0, 0.0, "w1", ("w2",), 1), Agent(1, 0.0, "w3", ("w4",), 1)]
    found = added_latency.added_latency([one, other], {"dynamo": way}, agents, 3)

    assert sent == [1, 1, 2, 2] * 2 + [1, 3] + [3, 2] + [1, 3]
    assert found["dynamo"]["added_first_ms"] == pytest.approx(20)
    cached = 80
    with pytest.raises(SideError, match="80 of 100 tokens were cached"):
        added_latency.added_latency([one, other], {"dynamo": way}, agents, 3)


def test_a_table_has_every_router_with_ratios_within_rounds() -> None:
    """Medians over rounds; a ratio to round robin is taken in each round first; round robin has none to itself."""
    keys = ("hit_rate", "busiest_share", "chosen_share")
    rounds = {
        "round-robin": [{"ttft_p50_s": p50, "ttft_p99_s": 1.0, **dict.fromkeys(keys, 0.5)} for p50 in (1.0, 4.0, 2.0)],
        "dynamo": [{"ttft_p50_s": p50, "ttft_p99_s": 0.5, **dict.fromkeys(keys, 0.9)} for p50 in (0.5, 1.0, 3.0)],
    }
    added = added_latency.latency_summary({name: [answered(0.01, 0.05)] for name in ("directly", *rounds)})
    routers.fill_router_report(report := Report("routers", {}), rounds, added)

    assert report.figures["routers"]["round-robin"]["ttft_p50_s"] == 2.0
    assert report.figures["ratios to round-robin"] == {"dynamo": {"ttft_p50_s": 0.5, "ttft_p99_s": 0.5}}
    (_, text), (_, direct) = report.tables
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in text.splitlines()}
    assert cells["round-robin"] == ["0.5", "2", "1", "-", "-", "0.5", "0.5", "0", "0"]
    assert cells["dynamo"][:5] == ["0.9", "1", "0.5", "0.5", "0.5"]
    assert "| directly" in direct


def test_a_router_that_is_not_installed_says_how_it_is(tmp_path: Path) -> None:
    """Every router of the entrance has an environment, or needs none."""
    assert {name for name, program in PROGRAMS.items() if program} == set(PACKAGES)
    assert router_program("round-robin", tmp_path) is None
    with pytest.raises(SideError, match=r"client_envs\.py --into .* dynamo`, or leave dynamo out"):
        router_program("dynamo", tmp_path)


def test_unknown_routers_are_refused() -> None:
    """Their names come from the entrance."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    routers.add_arguments(parser)
    assert parser.parse_args(["--router=dynamo,round-robin,dynamo"]).router == ["dynamo", "round-robin"]
    with pytest.raises(argparse.ArgumentError, match="no router 'nginx'"):
        parser.parse_args(["--router=nginx"])


@pytest.mark.process
@pytest.mark.slow  # two stacks, two entrances
@pytest.mark.timeout(600)
def test_a_router_finds_more_than_round_robin() -> None:
    """A tiny run: the same requests behind both, more of them cached where a router matches prompts; both add
    something to a request, and its versions are told."""
    client_environment("vllm_router", MADE)
    command = [sys.executable, "-m", "quire_services.cli", "bench", "routers", "--json", "--rounds=1", "--pairs=4"]
    command += ["--router=round-robin,vllm-router", "--model=tiny", "--kv-gib=0.0625", "--agents=8", "--turns=3"]
    command += ["--system=300", "--answer=4", "--span-s=4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    base, router = (told["figures"]["routers"][name] for name in ("round-robin", "vllm-router"))

    assert (base["requests"], base["prompt_tokens"]) == (router["requests"], router["prompt_tokens"])
    assert base["requests"] == 24
    assert 0.5 <= base["busiest_share"] <= 0.6  # in turn, but for a node that a busy machine makes look away
    assert base["chosen_share"] > 0.9
    assert router["hit_rate"] > base["hit_rate"] > 0
    assert router["chosen_share"] > 0.5
    assert set(told["figures"]["added"]) == {"directly", "round-robin", "vllm-router"}
    assert all(one["first_ms"] <= one["whole_ms"] for one in told["figures"]["added"].values())
    assert told["versions"]["vllm-router"][0].isdigit()
