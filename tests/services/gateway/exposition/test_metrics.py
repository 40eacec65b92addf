"""Pages of metrics as Prometheus scrapes them, beside what kvstore and engines say of themselves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from quire_proto.client.client import KVReader
from quire_services.gateway.exposition.catalogue import PAGES
from quire_services.gateway.exposition.catalogue_page import metrics_page
from quire_services.gateway.exposition.kvstore_readings import KVSTORE_COUNTERS
from tests.services.gateway.exposition.pages import FOLLOWER, LOAD, Stack, series, value
from tests.support.repository import ROOT
from tests.support.waits import wait_for

pytestmark = pytest.mark.process


def test_the_kvstore_s_page_is_its_own_numbers(stack: Stack) -> None:
    """Blocks by state, counters, sessions, sources of prompt tokens, ops: as it answers when asked directly."""
    with stack.holding():
        found, stats = stack.scrape("/kvstore"), stack.stats()

    counters = stats.counters
    for state in ("free", "held", "cached", "quarantined"):
        assert value(found, "quire_kvstore_blocks", state=state) == stats.blocks[state]
    assert stats.blocks["held"] == 10
    for name in KVSTORE_COUNTERS:
        if name != "messages":  # heartbeats
            assert value(found, f"quire_kvstore_{name}_total") == counters[name], name
    assert value(found, "quire_kvstore_sessions", state="ready") == 1
    assert value(found, "quire_kvstore_sequences") == sum(session.sequences for session in stats.sessions) > 0
    assert value(found, "quire_kvstore_claims") == stats.claims
    assert value(found, "quire_kvstore_publications", state="pending") == 1
    sources = ("publication", "cache", "computed")
    tokens = [value(found, "quire_kvstore_prompt_tokens_total", source=source) for source in sources]
    assert sum(tokens) == counters["prompt_tokens"] > 0
    assert value(found, "quire_kvstore_op_seconds_count", op="allocate") == stats.ops["allocate"]
    whole = value(found, "quire_kvstore_op_seconds_sum", op="allocate")
    assert whole == pytest.approx(stats.op_times["allocate"].total)
    assert value(found, "quire_kvstore_op_seconds_bucket", op="allocate", le="+Inf") == stats.ops["allocate"]


def test_tenants_are_on_the_operator_s_page_alone(stack: Stack) -> None:
    """What ``tenants`` answers, under the admin token; the port of the API has no such page, and no tenant on any."""
    with stack.holding():
        found = series(stack.admin.get("/metrics/tenants").text)
        with KVReader(stack.gateway.run_dir) as reader:
            usage = {one.tenant: one for one in reader.tenants().tenants}
    for tenant, one in usage.items():
        assert value(found, "quire_tenant_blocks", tenant=tenant, state="held") == one.held
        assert value(found, "quire_tenant_prompt_tokens_total", tenant=tenant) == one.prompt_tokens
    (holder,) = (name for name, one in usage.items() if one.held)

    assert stack.gateway.http.get("/metrics/tenants").status_code == 404
    pages = [target["labels"]["__metrics_path__"] for target in stack.gateway.http.get("/metrics/targets").json()]
    assert pages == ["/metrics", "/metrics/kvstore"]
    for path in pages:
        assert f'"{holder}"' not in stack.gateway.http.get(path).text
        assert httpx.get(f"{stack.admin.base_url}{path}").status_code == 401
        assert stack.admin.get(path).status_code == 200


def test_what_a_follower_of_declarations_says_is_shown(stack: Stack) -> None:
    """Nothing before it said something; then its version, failures, shares, and the age of its look, which grows by
    itself."""
    assert not any(name.startswith("quire_declarations") for name, _ in stack.scrape())
    assert stack.admin.put("/admin/declarations", json=FOLLOWER).status_code == 200

    found = stack.scrape()
    assert value(found, "quire_declarations_version") == FOLLOWER["version"]
    assert value(found, "quire_declarations_failures_total", part="store") == 3
    age = value(found, "quire_declarations_look_age_seconds")
    assert 2.5 <= age < 60
    wait_for(lambda: value(stack.scrape(), "quire_declarations_look_age_seconds") > age, "it is older")
    with stack.holding():
        tenants = series(stack.admin.get("/metrics/tenants").text)
    named = {dict(labels)["tenant"] for name, labels in tenants if name == "quire_tenant_sequences"}
    shares = {labels: share for (name, labels), share in tenants.items() if name == "quire_tenant_share_blocks"}
    assert shares == ({(("tenant", "acme"),): 7} if "acme" in named else {})
    assert stack.admin.put("/admin/declarations", json={**FOLLOWER, "shards": 1}).status_code == 400


def test_an_engine_is_shown_as_vllm_shows_its_own(stack: Stack) -> None:
    """Load, cache, counters and times by vLLM's names and labels, lengths and latencies of what it answered; what only
    our engines have is on a page of its own, which is gone with the engine and begins anew with the next."""
    engine = stack.gateway.engine("engine-1")
    engine.report(LOAD)
    body = {"model": "tiny", "prompt": "the quick brown fox", "max_tokens": 4, "n": 2, "ignore_eos": True}
    answer = stack.gateway.http.post("/v1/completions", json=body).json()
    own = {"model_name": "tiny", "engine": "engine-1"}

    def one(name: str, **labels: str) -> float:
        return value(found, f"vllm:{name}", **own, **labels)

    def settled() -> bool:
        held, page = stack.stats().blocks["held"], stack.scrape()
        reported = ("vllm:request_queue_time_seconds_count", tuple(sorted(own.items()))) in page
        return reported and held == value(page, "vllm:kv_cache_usage_perc", **own) == 0

    wait_for(settled, "its report, and the end of what another test held")
    found, stats = stack.scrape(), stack.stats()
    assert (one("num_requests_running"), one("num_requests_waiting")) == (3, 2)
    assert (one("prefix_cache_queries_total"), one("prefix_cache_hits_total")) == (80, 48)
    assert (one("prompt_tokens_total"), one("generation_tokens_total"), one("num_preemptions_total")) == (90, 21, 2)
    assert one("kv_cache_usage_perc") == stats.blocks["held"] / 64
    pool = {"block_size": str(stats.layout.block_size), "num_gpu_blocks": "64", "cache_dtype": stats.layout.dtype}
    assert one("cache_config_info", **pool) == 1
    assert [one("request_queue_time_seconds_bucket", le=le) for le in ("0.3", "1.0", "+Inf")] == [2, 3, 3]
    assert one("request_queue_time_seconds_sum") == 0.75
    assert one("time_to_first_token_seconds_count") == one("e2e_request_latency_seconds_count") == 2
    assert one("inter_token_latency_seconds_count") == 2 * 3
    means, decoded = one("request_time_per_output_token_seconds_sum"), one("request_decode_time_seconds_sum")
    assert (one("request_time_per_output_token_seconds_count"), means * 3) == (2, pytest.approx(decoded))
    assert one("request_generation_tokens_sum") == answer["usage"]["completion_tokens"] == 8
    assert (one("request_max_num_generation_tokens_sum"), one("request_max_num_generation_tokens_count")) == (4, 1)
    assert one("request_prompt_tokens_sum") == 2 * answer["usage"]["prompt_tokens"]
    assert one("request_success_total", finished_reason="length") == 2
    waited = one("time_to_first_token_seconds_sum") + one("inter_token_latency_seconds_sum")
    assert waited == pytest.approx(one("e2e_request_latency_seconds_sum"), rel=0.05)
    done = value(found, "quire_gateway_requests_total", api="completions", code="200", outcome="ok")
    assert (done, value(found, "quire_gateway_completion_tokens_total")) == (1, 8)

    stack.gateway.http.post("/v1/completions", json=body | {"n": 1, "max_tokens": 40, "stop": "quick"})
    found = stack.scrape()
    assert one("request_success_total", finished_reason="stop") == 1
    answered = value(found, "quire_gateway_completion_tokens_total")

    page_of_it = stack.scrape("/engines/engine-1")
    assert value(page_of_it, "quire_engine_steps_total", engine="engine-1") == 11
    assert value(page_of_it, "quire_engine_computed_tokens_total", engine="engine-1") == 60
    engine.close()
    wait_for(lambda: stack.gateway.http.get("/metrics/engines/engine-1").status_code == 404, "its page is gone")
    again = stack.gateway.engine("engine-1")
    found = stack.scrape()
    assert one("time_to_first_token_seconds_count") == 0
    assert value(found, "quire_gateway_completion_tokens_total") == answered > 8
    again.close()
    wait_for(lambda: stack.gateway.health()["engines"]["connected"] == 0, "it is gone")


def test_moves_are_counted_by_their_cause(stack: Stack) -> None:
    """A continuation whose engine is gone, and one that was given back, go on in another; each is counted once, and its
    next token is late there."""
    first = stack.gateway.engine("first")
    before = stack.scrape()
    first.steps = 2
    body = {"model": "tiny", "prompt": "the quick brown fox", "max_tokens": 4, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(stack.gateway.http.post, "/v1/completions", json=body)
        wait_for(first.stalled, "two tokens")
        second = stack.gateway.engine("second")
        second.steps = 3
        first.close()
        wait_for(second.stalled, "one more")
        third = stack.gateway.engine("third")
        second.fail_all("kvstore_lost", "lost")
        usage = answer.result().json()["usage"]
    assert usage["completion_tokens"] == 4

    found = stack.scrape()
    moved = {
        cause: value(found, "quire_gateway_moves_total", cause=cause) for cause in ("gone", "silent", "given_back")
    }
    already = {cause: value(before, "quire_gateway_moves_total", cause=cause) for cause in moved}
    assert {cause: moved[cause] - already[cause] for cause in moved} == {"gone": 1, "silent": 0, "given_back": 1}
    again = [value(page, "quire_gateway_recomputed_tokens_total") for page in (before, found)]
    assert again[1] - again[0] == 2 * usage["prompt_tokens"] + 2 + 3
    of_third = {"model_name": "tiny", "engine": "third"}
    assert value(found, "vllm:inter_token_latency_seconds_count", **of_third) == 1
    assert value(found, "vllm:time_to_first_token_seconds_count", **of_third) == 0
    assert value(found, "vllm:request_success_total", finished_reason="length", **of_third) == 1
    for engine in (second, third):
        engine.close()
    wait_for(lambda: stack.gateway.health()["engines"]["connected"] == 0, "they are gone")


def test_scrapes_in_parallel_change_nothing(stack: Stack) -> None:
    """A hundred at once get whole pages with the same counters, at the price of a few questions to the kvstore."""
    before = stack.stats().ops["stats"]
    with ThreadPoolExecutor(20) as pool:
        pages = list(pool.map(lambda _: stack.scrape("/kvstore"), range(100)))

    assert len({value(found, "quire_kvstore_allocates_total") for found in pages}) == 1
    assert stack.stats().ops["stats"] - before < 50
    names = {name for name, _ in pages[0]}
    assert all({name for name, _ in found} == names for found in pages)


def test_without_its_kvstore_the_gateway_s_page_stays(stack: Stack) -> None:
    """The kvstore's page is an error, so that its target is down; the other has what does not come from there."""
    engine = stack.gateway.engine("alone")
    assert stack.kvstore.end(15) == 0
    wait_for(lambda: stack.gateway.http.get("/metrics/kvstore").status_code == 503, "its page is gone")
    own = {"model_name": "tiny", "engine": "alone"}

    found = stack.scrape()
    assert value(found, "vllm:num_requests_running", **own) == 0
    assert ("vllm:kv_cache_usage_perc", tuple(sorted(own.items()))) not in found
    stack.kvstore.start()
    wait_for(lambda: stack.gateway.http.get("/metrics/kvstore").status_code == 200, "it is back")
    assert value(stack.scrape(), "vllm:kv_cache_usage_perc", **own) == 0
    engine.close()
    wait_for(lambda: stack.gateway.health()["engines"]["connected"] == 0, "it is gone")


def test_whatever_is_in_the_catalogue_is_on_a_page(stack: Stack) -> None:
    """Each metric, by its name and kind, once something has happened; and nothing else."""
    engine = stack.gateway.engine("one")
    engine.report(LOAD)
    stack.gateway.http.post("/v1/completions", json={"model": "tiny", "prompt": "hi", "max_tokens": 2})
    with stack.holding():
        with KVReader(stack.gateway.run_dir) as reader:
            (tenant,) = (one.tenant for one in reader.tenants().tenants if one.held)
            reader.quota(tenant, limit=50)
        said = {"version": 1, "look_age_s": 0.5, "failures": {"store": 1}, "shares": {tenant: 50}}
        assert stack.admin.put("/admin/declarations", json=said).status_code == 200
        for target in stack.admin.get("/metrics/targets").json():
            path = target["labels"]["__metrics_path__"]
            text = stack.admin.get(path).text
            shown = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
            kind = {"/metrics": "gateway"}.get(path) or path.split("/")[2].removesuffix("s")
            listed = PAGES["tenants" if kind == "tenant" else kind]
            assert shown == {metric.name: metric.kind for metric in listed}, path
    engine.close()


def test_the_page_is_the_catalogue() -> None:
    """``python -m quire_services.gateway.exposition.catalogue_page > docs/operate/metrics.md`` changes nothing."""
    assert (ROOT / "docs" / "operate" / "metrics.md").read_text() == metrics_page()
