"""What the gateway counts, and its engines as vLLM would show them, as readings: the page of the inference port."""

from __future__ import annotations

from quire_kv import Stats
from quire_proto import __version__
from quire_services.gateway.generate import Gateway
from quire_services.gateway.turns.follower_word import FollowerWord

from .catalogue import DECLARATIONS, GATEWAY, VLLM
from .engine_readings import add_as_vllm
from .readings import Readings


def gateway_readings(gateway: Gateway, instance: str, stats: Stats | None) -> Readings:
    """The page of the gateway. ``stats``: the kvstore's, if it answers."""
    page, engines, counters = Readings(GATEWAY + DECLARATIONS + VLLM), gateway.engines, gateway.counters
    page.add("quire_gateway_info", 1, __version__, instance)
    for state, count in engines.summary().items():
        page.add("quire_gateway_engines", count, state)
    for (api, status, outcome), count in counters.requests.items():
        page.add("quire_gateway_requests_total", count, api, str(status), outcome)
    page.add("quire_gateway_requests_open", len(engines.calls()))
    page.add("quire_gateway_generations_waiting", engines.waiting().total())
    page.add("quire_gateway_requests_held", engines.held)
    page.add("quire_gateway_generations_stranded", engines.stranded)
    for cause, count in engines.moves.items():
        page.add("quire_gateway_moves_total", count, cause)
    page.add("quire_gateway_recomputed_tokens_total", counters.recomputed_tokens)
    page.add("quire_gateway_prompt_tokens_total", counters.prompt_tokens)
    page.add("quire_gateway_cached_tokens_total", counters.cached_tokens)
    page.add("quire_gateway_completion_tokens_total", counters.completion_tokens)
    if gateway.follower.said:
        _add_follower(page, gateway.follower)
    for engine in engines.connected():
        add_as_vllm(page, engine, gateway.models[0], stats)
    return page


def _add_follower(page: Readings, word: FollowerWord) -> None:
    page.add("quire_declarations_version", word.version)
    if (age := word.look_age_s()) is not None:
        page.add("quire_declarations_look_age_seconds", age)
    for part, count in word.failures.items():
        page.add("quire_declarations_failures_total", count, part)
