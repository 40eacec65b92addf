"""Node facts: what a router must know of a node, as the node itself says it (``docs/operate/routers.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from quire_services.cluster.entrance.members import EntranceNode

from .router import RouterAway

FACTS_S = 3.0


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Of one node: its model's name, its blocks, and where its events and their replay are."""

    model: str
    block_size: int
    events: str
    replay: str


async def ask_facts(client: httpx.AsyncClient, node: EntranceNode) -> NodeFacts:
    """Ask it. Raises RouterAway where it says too little, httpx.HTTPError where it says nothing."""
    about = await client.get(f"{node.url}/get_server_info", timeout=FACTS_S)
    sources = await client.get(f"{node.url}/kv_event_sources", timeout=FACTS_S)
    for answer in (about, sources):
        if answer.status_code != 200:
            raise RouterAway(f"{answer.url} answers {answer.status_code}: is this host in the node's metrics_networks?")
    if "0" not in (found := sources.json()):
        raise RouterAway(f"{node.name} publishes no events: it needs --events tcp://... and --events-tokens all")
    told, source = about.json(), found["0"]
    return NodeFacts(
        told["served_model_name"], told["kv_block_size"], source["endpoint"], source.get("replay_endpoint") or ""
    )
