"""The page of all metrics, ``docs/operate/metrics.md``: run as a module, this prints it."""

from __future__ import annotations

import sys

from quire_services.config.settings import GatewaySettings
from quire_services.gateway.link.latencies import FIRST_TOKEN_BOUNDS, REQUEST_BOUNDS, TOKEN_BOUNDS

from .catalogue import DECLARATIONS, ENGINE, GATEWAY, KVSTORE, TENANTS, VLLM, Metric
from .kvstore_readings import MOST_TENANTS, OTHERS

_NETWORKS = GatewaySettings().metrics_networks
_HEAD = f"""# Metrics

The gateway shows what it counts, what its engines report and what the kvstore answers, in the format that Prometheus
reads. Nothing is counted for that alone but the times of answers; when nobody may read them, these are not taken
either.

| path | what is there |
| --- | --- |
| `/metrics` | the gateway, how far it follows [declarations](declarations.md), and each engine as vLLM would show it |
| `/metrics/engines/NAME` | what only our engines have; 404 while that engine is not connected |
| `/metrics/kvstore` | the kvstore's own numbers, those of `quire status`; 503 while it does not answer |
| `/metrics/tenants` | what each tenant has; on the admin port alone |
| `/metrics/targets` | all of these, for Prometheus' service discovery over HTTP |

Each series is on one page. Scraped as targets of their own, an engine or a kvstore that is gone is a target that is
down (`up` is 0), and one that is back begins at 0 without touching the counters of others. Gateway, kvstore and
engines go on counting while nobody scrapes; what several scrape in the same moment is asked of the kvstore once.

```yaml
scrape_configs:
  - job_name: quire
    http_sd_configs:
      - url: http://127.0.0.1:8000/metrics/targets
```

`deploy/prometheus` has that file with alert rules, `deploy/grafana/quire.json` a dashboard.

With the admin port, `/metrics/targets` there has the tenants' page as well; Prometheus needs the token then, for the
list and for the pages:

```yaml
  - job_name: quire-tenants
    metrics_path: /metrics/tenants
    authorization: {{credentials_file: /run/quire/admin.token}}
    static_configs:
      - targets: [127.0.0.1:8001]
```

## Who may read them

On the port of the API: who connects from one of `--metrics-networks`, by default `{_NETWORKS}`, this machine. No key
is needed, and none helps. `--metrics-networks 172.16.0.0/12,127.0.0.1` lets containers beside it scrape;
`--metrics-networks ''` closes the pages there. Private networks are not in the default: where ports of containers are
published, strangers often seem to come from one. The pages tell how busy the server is and what its model is called;
no tenant and no prompt is in them.

- A request with `X-Forwarded-For`, `Forwarded`, `X-Real-IP` or `Via` is refused: it came through a proxy, and the
  address is the proxy's. A proxy on this machine that sets none of them looks like this machine: let it not forward
  `/metrics`.
- So is one with an `Origin`, and one that names a host by a name with a dot which is none of `--allowed-hosts`: those
  are web pages in somebody's browser.
- On the admin port the admin token opens all pages, and nothing else does.

Tenants are labels on their own page alone, and at most {MOST_TENANTS} of them: those that are charged the most
blocks. The others are summed up as `{OTHERS}`.

This page is made by `python -m quire_services.gateway.exposition.catalogue_page` and checked by the tests.
"""

_FOLLOWER_NOTE = """
Only on a node that follows a store. They are what the follower said last, once a second: an age that grows beyond a few
seconds is a store that does not answer, or a follower that is gone; a version below that of other nodes is a node that
is behind or cannot apply something, and `quire declare nodes` says what. The node's share of a tenant's limit is on the
tenants' page.
"""

_VLLM_NOTE = """
`engine` is the engine's name, `model_name` the first of `--served-model-name` and its aliases. Prompts, hits, waits
and the times of queue and prefill are the engine's own and begin with its process; all other times and lengths are
measured in the gateway and begin with the engine's connection. A continuation that moves counts at the engine where
it is then. With `n` continuations of one prompt, each is one. The pool is shared: its use is the same at each engine,
and must not be summed.

Bounds of histograms, in seconds, are vLLM's: first token {first}; between tokens {between}; requests and their
phases {whole}. Lengths: 1, 2, 5, 10, ... up to the model's longest sequence.
"""


def metrics_page() -> str:
    """The whole page."""
    bounds = {"first": FIRST_TOKEN_BOUNDS, "between": TOKEN_BOUNDS, "whole": REQUEST_BOUNDS}
    note = _VLLM_NOTE.format(**{name: ", ".join(f"{bound:g}" for bound in values) for name, values in bounds.items()})
    return "".join(
        [
            _HEAD,
            _table("Gateway", GATEWAY),
            _table("Declarations", DECLARATIONS),
            _FOLLOWER_NOTE,
            _table("Engines as vLLM", VLLM),
            note,
            _table("Engines", ENGINE),
            _table("Kvstore", KVSTORE),
            _table("Tenants", TENANTS),
        ]
    )


def _table(title: str, metrics: tuple[Metric, ...]) -> str:
    head = f"\n## {title}\n\n| metric | kind | labels | |\n| --- | --- | --- | --- |\n"
    return head + "".join(map(_row, metrics))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"


if __name__ == "__main__":
    sys.stdout.write(metrics_page())
