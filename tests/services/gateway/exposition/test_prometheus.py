"""Prometheus itself, where it is installed: it scrapes all pages, and what is in ``deploy`` for it is right."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from quire_proto import messages as m
from quire_services.gateway.exposition.catalogue import HISTOGRAM, PAGES
from tests.services.gateway.exposition.pages import FOLLOWER, LOAD, Stack
from tests.support.ports import free_port
from tests.support.raw_client import Client
from tests.support.repository import ROOT
from tests.support.waits import wait_for

DEPLOY = ROOT / "deploy"
PROGRAMS = ("prometheus", "promtool")
pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="Prometheus is not installed (apt: prometheus)"),
]
VLLM_PANELS = (
    "avg(vllm:e2e_request_latency_seconds_sum) / avg(vllm:e2e_request_latency_seconds_count)",
    "avg(vllm:request_time_per_output_token_seconds_sum) / avg(vllm:request_time_per_output_token_seconds_count)",
    "sum by (le) (vllm:e2e_request_latency_seconds_bucket)",
    "sum by (le) (vllm:time_to_first_token_seconds_bucket)",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "rate(vllm:prefix_cache_hits_total[1m]) / rate(vllm:prefix_cache_queries_total[1m])",
    'rate(vllm:prompt_tokens_total{model_name="tiny"}[1m])',
    'rate(vllm:generation_tokens_total{model_name="tiny"}[1m])',
    "histogram_quantile(0.9, sum by (le) (rate(vllm:inter_token_latency_seconds_bucket[1m])))",
    "sum by (le) (increase(vllm:request_prompt_tokens_bucket[1m]))",
    "sum by (le) (increase(vllm:request_generation_tokens_bucket[1m]))",
    "rate(vllm:request_max_num_generation_tokens_sum[1m])",
    "sum by (finished_reason) (increase(vllm:request_success_total[1m]))",
    "rate(vllm:request_queue_time_seconds_sum[1m])",
    "rate(vllm:request_prefill_time_seconds_sum[1m])",
    "rate(vllm:request_decode_time_seconds_sum[1m])",
    'vllm:cache_config_info{block_size!="", num_gpu_blocks!=""}',
)
UP = dict.fromkeys(("gateway", "kvstore", "engine-1"), "up")
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: quire
    http_sd_configs: [{{url: "{url}/metrics/targets", refresh_interval: 1s}}]
"""


@pytest.fixture(scope="module")
def busy(stack: Stack) -> Iterator[Stack]:
    """With an engine, a follower of declarations, something answered, something refused, a step made, and something
    held."""
    assert stack.admin.put("/admin/declarations", json=FOLLOWER).status_code == 200
    engine = stack.gateway.engine("engine-1")
    client = Client(stack.gateway.run_dir)
    client.attach()
    assert client.ask("step", m.Step(), ordered=True).code == ""
    client.close()
    with stack.holding():
        engine.report(LOAD)
        stack.gateway.http.post("/v1/completions", json={"model": "tiny", "prompt": "hi", "max_tokens": 2, "n": 2})
        stack.gateway.http.post("/v1/completions", json={"model": "other"})
        yield stack
    engine.close()


@pytest.fixture(scope="module")
def prometheus(busy: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that scrapes it every second."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (folder / "prometheus.yml").write_text(CONFIG.format(url=busy.gateway.url))
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log) as process:
            try:
                wait_for(lambda: health(http) == UP, "all targets are up", 30)
                yield http
            finally:
                process.terminate()


def health(prometheus: httpx.Client) -> dict[str, str]:
    """Targets by path: up, down or unknown."""
    try:
        answered = prometheus.get("/api/v1/targets")
    except httpx.TransportError:
        return {}
    targets = answered.json()["data"]["activeTargets"] if answered.status_code == 200 else ()
    return {target["labels"]["process"]: target["health"] for target in targets}


def answer(prometheus: httpx.Client, query: str) -> list[Any]:
    """The series of an expression."""
    answered = prometheus.get("/api/v1/query", params={"query": query}).json()
    assert answered["status"] == "success", answered
    series: list[Any] = answered["data"]["result"]
    return series


def test_every_page_is_as_promtool_wants_it(busy: Stack) -> None:
    """Names, types, units and helps; vLLM's names have colons, which are for recording rules otherwise."""
    for path in ("", "/kvstore", "/engines/engine-1", "/tenants"):
        text = busy.admin.get(f"/metrics{path}").text
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30
        )
        wrong = [line for line in checked.stderr.splitlines() if not line.startswith("vllm:")]
        assert not wrong, checked.stderr


def test_all_targets_are_found_and_every_metric_is_a_series(prometheus: httpx.Client) -> None:
    """Gateway, kvstore and each engine by the list that the gateway gives; of each all that the catalogue has, but the
    tenants', which only the operator may have; and nothing twice."""
    for page, metrics in PAGES.items():
        for metric in metrics if page != "tenants" else ():
            name = metric.name + ("_bucket" if metric.kind == HISTOGRAM else "")
            assert answer(prometheus, name), name
    doubled = answer(prometheus, 'count by (__name__) ({__name__=~"vllm:num_requests_.*|quire_kvstore_blocks"})')
    assert {one["metric"]["__name__"]: one["value"][1] for one in doubled} == {
        "vllm:num_requests_running": "1", "vllm:num_requests_waiting": "1", "quire_kvstore_blocks": "4",
    }  # fmt: skip


def test_panels_of_vllm_s_dashboards_have_data(prometheus: httpx.Client) -> None:
    """What the dashboards of vLLM and of its production stack ask engines for; what its router counts is not here."""
    for query in VLLM_PANELS:
        wait_for(lambda query=query: answer(prometheus, query), f"a series of {query}", 20)


def test_every_expression_of_dashboard_and_rules_gives_a_series(busy: Stack, prometheus: httpx.Client) -> None:
    """As Grafana asks, over a time with two scrapes; a rule without its threshold, so that it says what it looks at."""
    for _ in range(2):
        busy.gateway.http.post("/v1/completions", json={"model": "tiny", "prompt": "hi", "max_tokens": 3})
    dashboard = json.loads((DEPLOY / "grafana" / "quire.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked = [target["expr"].replace("$instance", ".+").replace("$__rate_interval", "1m") for target in targets]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "quire.rules.yml").read_text())["groups"][0]["rules"]
    asked += [re.split(r" (?:>|==|<) ", rule["expr"])[0] for rule in rules]
    assert len(asked) > 40

    for query in asked:
        wait_for(lambda query=query: answer(prometheus, query), f"a series of {query}", 20)


@pytest.mark.parametrize(
    "command", [("check", "config", "prometheus.yml"), ("test", "rules", "quire.rules.test.yml")], ids=" ".join
)
def test_configuration_and_rules_are_right(command: tuple[str, ...]) -> None:
    """Each rule fires when it should, with its words, and is silent when it should be."""
    ran = subprocess.run(
        ["promtool", *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_rule_is_tested_both_ways() -> None:
    """It fires in one place of the rules' tests, and is silent in another."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "quire.rules.yml").read_text())["groups"][0]["rules"]
    cases = yaml.safe_load((DEPLOY / "prometheus" / "quire.rules.test.yml").read_text())["tests"]
    looked = [(one["alertname"], bool(one["exp_alerts"])) for case in cases for one in case["alert_rule_test"]]
    assert sorted(looked) == sorted((rule["alert"], fires) for rule in rules for fires in (True, False))
