"""Gateway process: the OpenAI API on one side, the engines on the other.

Life: read the tokenizer, start the fork server of the readers, listen for engines, then for clients - an open port
means it is ready to answer, with 503 while no engine is. First signal: no new connections, running requests have
``drain_s`` seconds, what is left then ends with an error and is aborted at its engine. Second signal: exit at once.
Nothing but JSON log lines is printed. With an admin port the same process serves the admin API there, to the loopback
only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import structlog
import uvloop
from starlette.types import ASGIApp

from quire_engine.checkpoint.model_name import model_name
from quire_engine.checkpoint.refusal import ModelRefused
from quire_proto.private_dir import NotPrivate
from quire_services.config import settings
from quire_services.config.loader import ConfigError, load_tenants
from quire_services.config.socket_names import GATEWAY_SOCKET
from quire_services.gateway.admin.http import make_admin_app
from quire_services.gateway.admin.key_file import KeyFile
from quire_services.gateway.admin.token import AdminToken, TokenError
from quire_services.gateway.api_keys import ApiKeys
from quire_services.gateway.awake_clock import clock
from quire_services.gateway.counters import Counters
from quire_services.gateway.dashboard.happenings import Happenings
from quire_services.gateway.dashboard.routes import DASHBOARD_PATHS, add_dashboard
from quire_services.gateway.edge import Edge
from quire_services.gateway.engines import Engines
from quire_services.gateway.exposition.access import MetricsAccess
from quire_services.gateway.exposition.kvstore_answers import KvstoreAnswers
from quire_services.gateway.generate import Gateway
from quire_services.gateway.http.connections import Connections, most_connections, raise_file_limit
from quire_services.gateway.http.errors import unavailable
from quire_services.gateway.http.host_names import HostNames
from quire_services.gateway.http.protocol import Bounds
from quire_services.gateway.http.server import BindError, HttpServer, bind, listen
from quire_services.gateway.http_app import make_app
from quire_services.gateway.link_server import LinkServer, SocketTaken
from quire_services.gateway.openai.response_api.response_store import ResponseStore
from quire_services.gateway.openai.sampling_defaults import DefaultsError, SamplingDefaults, load_sampling_defaults
from quire_services.gateway.origin import listed, tenant_resolver, with_origins
from quire_services.gateway.published_prompts.recent_preambles import RecentPreambles
from quire_services.gateway.readers.reader_pool import ReaderPool
from quire_services.gateway.readers.reader_process import ForkServer
from quire_services.gateway.readers.request_reader import RequestReader
from quire_services.gateway.templates.chat_template import LoadError, PromptEncoder, log_like_everyone, without_torch
from quire_services.process import flags, logs
from quire_services.process.gc_tuning import freeze_objects
from quire_services.process.model.served_model import with_directory
from quire_services.process.port_check import ADMIN_HOST, is_loopback
from quire_services.process.reason import StartError
from quire_services.process.start_report import report_facts
from quire_services.tracing.switch import start_tracer

log = structlog.get_logger()
FOUND_OUT = "auto"  # the tool parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gateway; the exit status."""
    config, instance = gateway_config(argv)
    logs.configure("gateway", form=config.serve.log_format)
    without_torch()
    log_like_everyone()
    try:
        with contextlib.ExitStack() as unused:
            ports = [unused.enter_context(bind(config.gateway.host, config.gateway.port))]
            if config.gateway.admin_port:
                ports.append(unused.enter_context(bind(ADMIN_HOST, config.gateway.admin_port)))
            gateway = _gateway(config)
            freeze_objects()
            return uvloop.run(_run(config, gateway, ports, instance))
    except (StartError, LoadError, DefaultsError, SocketTaken, BindError, TokenError) as error:
        log.error("cannot_start", reason=str(error))
        return 1
    except KeyboardInterrupt:  # before the server took the signals over
        return 130


def gateway_config(argv: Sequence[str] | None) -> tuple[settings.Config, str]:
    """Flags, environment and file as configuration, and this gateway's name; a mistake ends the process with 2."""
    parser = flags.Parser(prog="quire gateway", description="the OpenAI-compatible HTTP side of the stack")
    own = (field.name for field in fields(settings.GatewaySettings))
    stack = ("model", "revision", "run_dir", "log_format", "otlp_traces_endpoint")
    flags.add(parser, "serve", "gateway", only=(*stack, *own))
    parser.add_argument("--instance", default=secrets.token_hex(8), help="name at /health (default: a random one)")
    arguments = parser.parse_args(argv)
    return flags.read_config(parser, arguments), arguments.instance


async def _run(config: settings.Config, gateway: Gateway, ports: list[socket.socket], instance: str) -> int:
    hosts, kvstore = HostNames(listed(config.gateway.allowed_hosts)), KvstoreAnswers(config.run_dir)
    access = _metrics_access(config.gateway.metrics_networks, hosts)
    app = make_app(gateway, instance, kvstore)
    tracer = start_tracer("gateway", instance, config.serve.otlp_traces_endpoint)
    edge = Edge(app, tenant_resolver(gateway.api_keys, hosts), gateway.counters, access, tracer)
    apps: list[ASGIApp] = [with_origins(edge, listed(config.gateway.allowed_origins))]
    happenings = Happenings(gateway.engines, kvstore)
    if config.gateway.admin_port:
        token = AdminToken(config.run_dir, config.gateway.admin_token_file)
        keys = KeyFile(gateway.api_keys, config.gateway.keys_file)
        admin = make_admin_app(gateway, config.run_dir, instance, kvstore, keys)
        add_dashboard(admin, gateway, config.run_dir, kvstore, happenings)
        # Dashboards and followers of declarations ask every second.
        apps.append(Edge(admin, token.operator, Counters(), open_paths=DASHBOARD_PATHS, log_reads=False))
    link = LinkServer(gateway.engines, config.run_dir / GATEWAY_SOCKET)
    try:
        await link.start()
    except (OSError, NotPrivate) as error:
        raise StartError(f"cannot listen for engines in {config.run_dir}: {error}") from None
    for port in ports:
        listen(port)
    watches = [gateway.api_keys.watch(), clock.run(), gateway.stored.watch(), gateway.engines.watch()]
    if config.gateway.admin_port:
        watches.append(happenings.watch())
    beside = [asyncio.ensure_future(watch) for watch in watches]
    if not gateway.api_keys.open:  # without keys there is one tenant
        beside.append(asyncio.ensure_future(gateway.engines.weights.watch(config.run_dir)))
    try:
        await _serve(gateway, apps, ports, config.gateway)
    finally:
        for task in beside:
            task.cancel()
        await link.stop()
        gateway.readers.close()
        if tracer is not None:
            tracer.close()
    log.info("stopped")
    return 0


def _metrics_access(networks: str, hosts: HostNames) -> MetricsAccess:
    try:
        return MetricsAccess(listed(networks), hosts)
    except ValueError as error:
        raise StartError(f"gateway.metrics_networks: {error}") from None


def _gateway(config: settings.Config) -> Gateway:
    if not config.serve.model:
        raise StartError("no model: name one with --model DIR")
    try:
        model = Path(with_directory(config).serve.model)
    except ModelRefused as error:
        raise StartError(str(error)) from error
    api_keys = configured_keys(config)
    reached_at = config.gateway.published_host or config.gateway.host
    if api_keys.open and not is_loopback(reached_at):
        flag = "--published-host" if config.gateway.published_host else "--host"
        raise StartError(
            f"{flag} {reached_at} can be reached by others, but no API key is configured: "
            "add [[tenants]] with keys to the configuration file, or listen on 127.0.0.1"
        )
    defaults = _defaults(config.gateway.generation_config, model)
    gateway = config.gateway
    tool_parser = None if gateway.tool_parser == FOUND_OUT else gateway.tool_parser
    encoder = PromptEncoder.load(
        model, gateway.special_tokens_in_messages == "text", tool_parser, gateway.canonical_tools
    )
    for note in encoder.notes:
        log.warning("prompts", note=note)
    log.info("tool_parser", name=encoder.answers.name, by="probe" if tool_parser is None else "setting")
    name = gateway.served_model_name or model_name(model)
    report_facts(model=name, chats=encoder.chats)
    names = tuple(dict.fromkeys((name, *listed(gateway.model_aliases))))
    reader = RequestReader(
        names, encoder, defaults, gateway.trust_request_chat_template, gateway.remembered_requests > 0
    )
    readers = ReaderPool(ForkServer.start(reader), max(1, (os.cpu_count() or 1) // 8))
    engines = Engines(gateway.max_queue, gateway.hold_s, timed=bool(gateway.metrics_networks or gateway.admin_port))
    stored = ResponseStore(gateway.stored_responses, gateway.stored_response_bytes, gateway.stored_response_s)
    return Gateway(
        names,
        encoder,
        engines,
        api_keys,
        reader,
        readers,
        defaults,
        stored,
        RecentPreambles(gateway.remembered_requests),
        gateway.max_body_bytes,
        gateway.ping_s,
        gateway.begin_s,
    )


def configured_keys(config: settings.Config) -> ApiKeys:
    """The keys of the configuration, or of a file of their own. Raises StartError."""
    if not config.gateway.keys_file:
        return ApiKeys(config.tenants, config.file)
    file = Path(config.gateway.keys_file).absolute()
    if config.tenants:
        raise StartError(f"gateway.keys_file: there are [[tenants]] in {file} and in {config.file}: choose one")
    try:
        tenants = load_tenants(file)
    except ConfigError as error:
        raise StartError(f"gateway.keys_file: {error}") from None
    if any(tenant.groups for tenant in tenants):
        raise StartError(f"gateway.keys_file: only the gateway reads {file}: make groups with `quire group join`")
    return ApiKeys(tenants, file)


def _defaults(source: str, model: Path) -> SamplingDefaults:
    """What stands in for parameters that requests leave out, logged in one line if a file gives it. Raises
    DefaultsError."""
    defaults = load_sampling_defaults(source, model)
    if defaults.given:
        log.info("sampling_defaults", source=source, **dict(defaults.given))
    if defaults.not_served:
        log.warning("sampling_defaults", not_served=", ".join(defaults.not_served))
    return defaults


async def _serve(
    gateway: Gateway, apps: list[ASGIApp], ports: list[socket.socket], settings: settings.GatewaySettings
) -> None:
    """Serve each application on its port until a signal says stop, then drain."""
    most, drain_s = most_connections(settings.max_connections, raise_file_limit()), settings.drain_s
    servers = [HttpServer(app, drain_s, Bounds(Connections(most), settings.write_timeout_s)) for app in apps]
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if gateway.engines.draining:
            os._exit(1)  # the second signal: do not wait
        log.info("draining", requests=len(gateway.engines.calls()), seconds=drain_s)
        gateway.engines.drain()
        for server in servers:
            server.should_exit = True
        loop.call_later(drain_s, _give_up, gateway)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    for port in ports:
        log.info("listening", host=port.getsockname()[0], port=port.getsockname()[1], model=gateway.models[0])
    await asyncio.gather(*(server.serve(sockets=[port]) for server, port in zip(servers, ports, strict=True)))


def _give_up(gateway: Gateway) -> None:
    """End what the drain did not wait for."""
    for call in gateway.engines.calls():
        call.fail(unavailable("the gateway is shutting down"))


if __name__ == "__main__":
    sys.exit(main())
