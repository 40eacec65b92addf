"""Application: a cluster's specification as a deployment of Serve's.

    serve run quire_services.cluster.ray_serve:build config=cluster.yaml

    applications:                    # or in a configuration of Serve's; a path there is one of the cluster's machines
      - name: agents
        import_path: quire_services.cluster.ray_serve:build
        args: {config: /etc/quire/cluster.yaml}
        deployments: [{name: Stack, num_replicas: 4}]      # Serve's own settings, in place of those made here

``nodes`` is how many replicas there are, ``resources`` what each is given, ``drain_s`` what requests have when one is
stopped. What Serve has an own word for is not said twice: which Ray, where its proxies listen. Gateways are reached by
their replicas alone, so they listen on the loopback unless ``host`` says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from quire_services.cluster.spec import ClusterSpec, SpecError, read_spec
from quire_services.cluster.stack_order import StackOrder, order_of
from quire_services.config.loader import load_config
from quire_services.process.port_check import ADMIN_HOST

from .replica import StackReplica

DEPLOYMENT = "Stack"
MOST_OPEN = (
    4096  # requests at a replica: the gateway turns away what is too much, and queues by tenant, as Serve cannot
)
CHECK_EVERY_S = 5.0
FIRST_TRIES = 3  # a stack that never starts ends the application with its reason
STACK_END_S = 30.0  # for a stack's end, beside what requests have


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")
    config: Path


def build(args: dict[str, Any]) -> Any:
    """The application. Raises SpecError with one line. Args: ``args``: as Serve passes them on: ``config``, a file."""
    try:
        file = _Arguments.model_validate(args).config
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SpecError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}: say config=cluster.yaml") from None
    spec = read_spec(file)
    order = replica_order(spec, file)
    from ray import serve

    amounts = {"num_cpus": order.resources.get("CPU", 0), "num_gpus": order.resources.get("GPU", 0)}
    memory = {"memory": order.resources["memory"]} if order.resources.get("memory") else {}
    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=spec.nodes,
        max_replicas_per_node=1,
        ray_actor_options=amounts | memory,
        max_ongoing_requests=MOST_OPEN,
        health_check_period_s=CHECK_EVERY_S,
        graceful_shutdown_timeout_s=spec.drain_s + STACK_END_S,
        max_constructor_retry_count=FIRST_TRIES,
    )
    return deployment(serve.ingress()(StackReplica)).bind(order)


def replica_order(spec: ClusterSpec, file: Path) -> StackOrder:
    """What each replica is to run. Raises SpecError for what makes no sense behind Serve."""
    if spec.entrance is not None:
        raise SpecError(f"{file}: entrance: Serve's own proxies stand in front of replicas: leave it out")
    if not spec.host and not _has_keys(spec):
        raise SpecError(
            f"{file}: there are no API keys, and whoever reaches Serve's proxies would be let in: name tenants in "
            f"config or declarations, or say host: {ADMIN_HOST} if that is meant"
        )
    return order_of(spec.model_copy(update={"host": spec.host or ADMIN_HOST}))


def _has_keys(spec: ClusterSpec) -> bool:
    return bool(spec.declarations) or bool(spec.config and load_config({"config": spec.config}, {}).tenants)
