"""Routes for routers in front of several gateways: how busy this one is, and where the events of its cache are.

    /load               vLLM's: how many requests are under way
    /kv_event_sources   vLLM's: the publisher of each data-parallel rank, of which a host has one; none without events
    /get_server_info    SGLang's, which vllm-router asks for the block size before it reads events

Read as metrics are (``access``): without a key, from the operator's networks.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from quire_kv import Events
from quire_proto import __version__
from quire_services.gateway.exposition.access import LOAD_PATH, SERVER_PATH, SOURCES_PATH
from quire_services.gateway.exposition.kvstore_answers import KvstoreAnswers
from quire_services.gateway.generate import Gateway
from quire_services.gateway.http.errors import unavailable

RANK = "0"


def add_router_routes(app: FastAPI, gateway: Gateway, kvstore: KvstoreAnswers, instance: str) -> None:
    """Add them."""

    @app.get(LOAD_PATH)
    async def load() -> dict[str, int]:
        return {"server_load": len(gateway.engines.calls()) + gateway.engines.held}

    @app.get(SOURCES_PATH)
    async def sources() -> dict[str, Any]:
        if await kvstore.stats() is None:
            raise unavailable("no kvstore answers")
        events = await kvstore.events()
        return {} if events is None else {RANK: _source(events)}

    @app.get(SERVER_PATH)
    async def server() -> dict[str, Any]:
        stats = await kvstore.stats()
        if stats is None:
            raise unavailable("no kvstore answers")
        name = gateway.models[0]
        return {
            "model_path": name,
            "served_model_name": name,
            "instance_id": instance,
            "version": __version__,
            "kv_block_size": stats.layout.block_size,
            "effective_attention_block_size": stats.layout.block_size,
        }


def _source(events: Events) -> dict[str, Any]:
    """A publisher as vLLM's configuration has it."""
    return {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": events.endpoint,
        "replay_endpoint": events.replay,
        "topic": events.topic,
        "encoding": "msgpack",
        "schema_version": 1,
    }
