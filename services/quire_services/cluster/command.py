"""``quire cluster``: one stack a machine, on machines that Ray has. ``up``, ``status``, ``scale``, ``down``.

``up`` ends when all nodes serve; asked again it changes nothing, but for the number of nodes. Ctrl-C before that takes
down what it has begun. The cluster goes on without any of these commands.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quire_services.config.input_files import one_line
from quire_services.process import flags
from quire_services.process.standard_streams import print_line

from .controller import ClusterStatus, Controller
from .local_ray import RAY_ENVIRONMENT, LocalRay, LocalRayError
from .node_home import sweep_homes
from .placement import NAMESPACE, NOT_NICED, alive_nodes
from .spec import MAX_NODES, RAY_AUTO, RAY_LOCAL, ClusterSpec, SpecError, read_spec
from .stack_order import order_of

STATUS_EVERY_S, HOMES_SWEEP_S, MAX_FAILURES = 0.5, 120.0, 3
_HEAD = {"node:__internal_head__": 0.001}  # Ray's own way to name the node that ends with it


class _NoClusterError(Exception):
    """There is nothing to speak to; one line says why."""


def main(argv: list[str]) -> int:
    """Entry of ``quire cluster``; returns the exit code."""
    parser = flags.Parser(prog="quire cluster", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start it, and wait until all nodes serve")
    up.add_argument("file", type=Path, metavar="FILE", help="the specification, cluster.yaml")
    status = commands.add_parser("status", help="print its nodes, and where they answer")
    scale = commands.add_parser("scale", help="have so many nodes; those that are too many are drained")
    scale.add_argument("nodes", type=int, metavar="N")
    down = commands.add_parser("down", help="drain and end all of it")
    for command in (status, scale, down):
        command.add_argument(
            "--file", type=Path, default=Path("cluster.yaml"), metavar="FILE", help="its specification"
        )
    for command in (up, scale):
        command.add_argument(
            "--wait-s", type=float, default=600, metavar="X", help="how long it may take (default: 600)"
        )
    status.add_argument("--json", action="store_true", help="as one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.command == "scale" and not 1 <= arguments.nodes <= MAX_NODES:
        parser.error(f"N: {arguments.nodes} is not from 1 to {MAX_NODES}")
    run: dict[str, Callable[[ClusterSpec, Namespace], int]] = {
        "up": _up,
        "status": _status,
        "scale": _scale,
        "down": _down,
    }
    try:
        spec = read_spec(arguments.file)
        return run[arguments.command](spec, arguments)
    except SpecError as error:
        parser.error(str(error))
    except (_NoClusterError, LocalRayError) as error:
        print_line(f"quire cluster: {one_line(str(error))}", sys.stderr)
    except KeyboardInterrupt:
        print_line("quire cluster: interrupted; what was asked for goes on", sys.stderr)
        return 130
    return 1


# --- the commands ----------------------------------------------------------------------------------------------


def _up(spec: ClusterSpec, arguments: Namespace) -> int:
    order = order_of(spec)
    local = LocalRay(spec.name) if spec.ray == RAY_LOCAL else None
    ray_is_ours = local is not None and not local.address
    began = False
    try:
        if local:
            local.grow(spec.nodes, spec.resources.cpus, spec.resources.gpus)
        _connect(spec)
        controller = _controller(spec)
        began = controller is None
        controller = controller or _start_controller(spec)
        if refusal := _ask(controller.apply.remote(order, spec.nodes)):
            raise _NoClusterError(f"cluster {spec.name}: {refusal}")
        _wait(controller, spec.nodes, arguments.wait_s, give_up=began)
        return 0
    except BaseException:
        if began:
            _say("taking down what was begun ...")
            _end(spec)
        if local and ray_is_ours:
            local.stop()
        raise


def _status(spec: ClusterSpec, arguments: Namespace) -> int:
    _connect(spec)
    found: ClusterStatus = _ask(_existing(spec).status.remote())
    if arguments.json:
        _say(json.dumps({**asdict(found), "serving": found.serving}, indent=2))
        return 0
    for node in found.nodes:
        _say(f"{node.name:<12}{node.state:<12}{node.host:<20}{node.url}")
    if found.entrance:
        _say(f"{'entrance':<12}{'serving' if found.entrance_up else 'starting':<32}{found.entrance}")
    _say(f"{found.serving} of {found.wanted} nodes serve" + (f": {found.problem}" if found.problem else ""))
    return 0


def _scale(spec: ClusterSpec, arguments: Namespace) -> int:
    if spec.ray == RAY_LOCAL and (local := LocalRay(spec.name)).address:
        local.grow(arguments.nodes, spec.resources.cpus, spec.resources.gpus)
    _connect(spec)
    controller = _existing(spec)
    _ask(controller.scale.remote(arguments.nodes))
    _wait(controller, arguments.nodes, arguments.wait_s, give_up=False)
    return 0


def _down(spec: ClusterSpec, _arguments: Namespace) -> int:
    began = time.monotonic()
    local = LocalRay(spec.name) if spec.ray == RAY_LOCAL else None
    if local is None or local.address:
        _connect(spec)
        _end(spec)
    if local:
        import ray

        ray.shutdown()
        local.stop()
    sweep_homes(spec.name)
    _say(f"cluster {spec.name} is down ({time.monotonic() - began:.1f} s)")
    return 0


# --- with Ray --------------------------------------------------------------------------------------------------


def _connect(spec: ClusterSpec) -> None:
    """Be in the Ray cluster. Raises _NoClusterError."""
    local = LocalRay(spec.name) if spec.ray == RAY_LOCAL else None
    os.environ.update(local.environment if local else RAY_ENVIRONMENT)
    if local:
        os.environ.pop("RAY_AUTH_TOKEN", None)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise _NoClusterError(f"{error}; install it with: pip install 'quire-kv[ray]'") from None
    address = local.address if local else spec.ray
    if not address:
        raise _NoClusterError(f"cluster {spec.name} does not run here: quire cluster up starts it")
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        hint = "; `ray start --head` starts one, and `ray: local` has it started" if spec.ray == RAY_AUTO else ""
        raise _NoClusterError(f"no Ray cluster answers at {address}{hint}: {error}") from None


def _controller_name(spec: ClusterSpec) -> str:
    return f"{spec.name}/controller"


def _controller(spec: ClusterSpec) -> Any:
    """The actor, None if there is none."""
    import ray

    try:
        return ray.get_actor(_controller_name(spec), NAMESPACE)
    except ValueError:
        return None


def _existing(spec: ClusterSpec) -> Any:
    controller = _controller(spec)
    if controller is None:
        raise _NoClusterError(f"cluster {spec.name} does not run: quire cluster up starts it")
    return controller


def _start_controller(spec: ClusterSpec) -> Any:
    import ray

    return (
        ray.remote(Controller)
        .options(
            name=_controller_name(spec),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            resources=_HEAD,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=8,
            runtime_env=NOT_NICED,  # its entrance carries every request
        )
        .remote(spec.name)
    )


def _ask(ref: Any) -> Any:
    """The answer of the controller. Raises _NoClusterError."""
    import ray

    try:
        return ray.get(ref, timeout=60)
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1:]
        raise _NoClusterError(f"the controller does not answer: {''.join(last)}") from None


def _wait(controller: Any, nodes: int, wait_s: float, *, give_up: bool) -> None:
    """Until exactly so many nodes are there and serve; what changes is said."""
    began, said, problems = time.monotonic(), dict[str, str](), list[str]()
    while True:
        found: ClusterStatus = _ask(controller.status.remote())
        for node in found.nodes:
            where = f"{node.state} on {node.host}" if node.host else "waits for a machine"
            if said.get(node.name) != where:
                said[node.name] = where
                _say(f"{node.name} {where} {node.url}".rstrip())
        if found.problem and (not problems or problems[-1] != found.problem):
            problems.append(found.problem)
            _say(found.problem)
        if found.serving == nodes == len(found.nodes) and found.entrance_up:
            at = f" at {found.entrance}" if found.entrance else ""
            _say(f"{nodes} of {nodes} nodes serve{at} ({time.monotonic() - began:.1f} s)")
            return
        failures = len([problem for problem in problems if problem.startswith("node-")])
        hopeless = failures >= MAX_FAILURES and not found.serving
        if give_up and (hopeless or found.problem.startswith("entrance: ")):
            raise _NoClusterError(problems[-1])
        if time.monotonic() - began > wait_s:
            raise _NoClusterError(
                f"{found.serving} of {nodes} nodes serve after {wait_s:g} s"
                + (f": {found.problem}" if found.problem else "")
            )
        time.sleep(STATUS_EVERY_S)


def _end(spec: ClusterSpec) -> None:
    """Drain all nodes, end the controller, and see that no machine keeps anything."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if controller := _controller(spec):
        _ask(controller.scale.remote(0))
        told = set[str]()
        while nodes := _ask(controller.status.remote()).nodes:
            for node in nodes:
                if node.name not in told:
                    told.add(node.name)
                    _say(f"{node.name} is ending ...")
            time.sleep(STATUS_EVERY_S)
        _ask(controller.end.remote())
        ray.kill(controller, no_restart=True)
    sweep = ray.remote(sweep_homes)
    refs = [
        sweep.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(spec.name)
        for node in alive_nodes()
    ]
    ray.wait(refs, num_returns=len(refs), timeout=HOMES_SWEEP_S)


def _say(text: str) -> None:
    print_line(text, sys.stdout)
