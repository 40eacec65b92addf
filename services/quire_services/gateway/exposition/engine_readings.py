"""What engines report, and how long their answers took, as readings: under vLLM's names, and what only ours have."""

from __future__ import annotations

from collections import Counter

from quire_kv import Stats
from quire_services.gateway.link.engine import Engine

from .catalogue import ENGINE
from .readings import Readings

ENGINE_COUNTERS = (
    "steps", "replayed_steps", "messages", "requests", "computed_tokens", "drafted_tokens", "forced_tokens",
    "kvstores_lost",
)  # fmt: skip
# Names of vLLM's and the engine's.
COUNTED_AS_VLLM = {
    "vllm:prefix_cache_queries_total": "queried_tokens",
    "vllm:prefix_cache_hits_total": "hit_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generated_tokens",
}
PHASES = {"vllm:request_queue_time_seconds": "queue", "vllm:request_prefill_time_seconds": "prefill"}


def engine_readings(engine: Engine) -> Readings:
    """The page of one engine."""
    page, name = Readings(ENGINE), engine.hello.engine
    page.add("quire_engine_ready", not engine.why_not(), name)
    page.add("quire_engine_report_age_seconds", engine.silence_s, name)
    if engine.load is not None:
        counters = Counter(engine.load.counters)
        for counted in ENGINE_COUNTERS:
            page.add(f"quire_engine_{counted}_total", counters[counted], name)
    return page


def add_as_vllm(page: Readings, engine: Engine, model: str, stats: Stats | None) -> None:
    """Enter one engine as vLLM shows one of its own. ``stats``: the kvstore's, if it answers."""
    own = (model, engine.hello.engine)
    if engine.load is not None:
        page.add("vllm:num_requests_running", engine.load.running, *own)
        page.add("vllm:num_requests_waiting", engine.load.waiting, *own)
        counters = Counter(engine.load.counters)
        for name, counted in COUNTED_AS_VLLM.items():
            page.add(name, counters[counted], *own)
        for name, phase in PHASES.items():
            if phase in engine.load.times:
                page.add(name, engine.load.times[phase], *own)
    if stats is not None:
        used = stats.blocks.get("held", 0) + stats.blocks.get("quarantined", 0)
        page.add("vllm:kv_cache_usage_perc", used / stats.num_blocks, *own)
        pool = (str(stats.layout.block_size), str(stats.num_blocks), stats.layout.dtype)
        page.add("vllm:cache_config_info", 1, *own, *pool)
    if engine.latencies is not None:
        for finish, ended in engine.latencies.ended.items():
            page.add("vllm:request_success_total", ended, *own, finish)
        for name, histogram in engine.latencies.by_name().items():
            page.add(f"vllm:{name}", histogram.distribution(), *own)
