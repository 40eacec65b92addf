"""kvstored: the kvstore as a process. Flags, the prepared file, logging and signals; the rest is ``quire_kvstore``.

``--prepared`` names a JSON file with the layout of the model and the tokens of the published prompts: it is written
beforehand, because a tokenizer takes seconds to import and the kvstore starts in well under one.

The first SIGTERM or SIGINT ends cleanly: what is queued is answered, the arena and the sockets are removed, exit
status 0. A second one ends at once with 128 + signal; the next start removes what is left.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from quire_kv import Layout
from quire_kvstore.blocks.policies import make_policy
from quire_kvstore.events.errors import EventsError
from quire_kvstore.host.arena import Arena, ArenaError, Roster, ShmArena, check_capacity
from quire_kvstore.host.arena_choice import AS_CONFIGURED, choose, make
from quire_kvstore.host.attach_socket import Accepted, Listener, raise_descriptor_limit
from quire_kvstore.host.cuda_arena import check_fits
from quire_kvstore.host.device_mappers import Mappers
from quire_kvstore.host.pool_size import PoolSize, pool_size
from quire_kvstore.host.reservation import Reservation
from quire_kvstore.host.root_key import KeyFileError, root_key
from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir, StateError
from quire_kvstore.server import quota
from quire_kvstore.server.liveness import DeviceAdmission
from quire_kvstore.server.server import Server, ServerError, ServerOptions
from quire_kvstore.server.service import Service
from quire_kvstore.state import State
from quire_proto import __version__
from quire_proto.private_dir import NotPrivate, insist_on_private
from quire_proto.wire.codec import CodecError, from_map
from quire_services.config.prepared_file import PREPARED_FILE, read_prepared
from quire_services.config.settings import Config, KvstoreSettings
from quire_services.process import flags, logs, reason
from quire_services.process.gc_tuning import tune_gc
from quire_services.process.reason import StartError
from quire_services.process.start_report import report_facts
from quire_services.tracing.switch import start_tracer

from .event_stream import event_stream
from .weights_arenas import settle_weights, weights_server

KVSTORE_SETTINGS = (
    "run_dir",
    "port",
    "log_format",
    "otlp_traces_endpoint",
    *(spec.name for spec in fields(KvstoreSettings)),
)

NEED = ("fixed", "token", "sequence", "tokens", "sequences")  # of an engine, as ``quire prepare`` reckons it

log = structlog.get_logger()


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal; returns the exit status (0, or 1 with one line on stderr)."""
    parser = flags.Parser(prog="quire kvstore", description="Serve one pool of KV-cache blocks.")
    flags.add(parser, "serve", "kvstore", "gateway", only=KVSTORE_SETTINGS)
    parser.add_argument("--prepared", type=Path, help="layout and published prompts (default: in the run directory)")
    arguments = parser.parse_args(argv)
    config = flags.read_config(parser, arguments)
    logs.configure("kvstore", form=config.serve.log_format)
    try:
        return _serve(config, arguments.prepared or config.run_dir / PREPARED_FILE)
    except (StartError, ArenaError, EventsError, KeyFileError, NotPrivate, ServerError, StateError, OSError) as exc:
        reason.complain("quire kvstore", str(exc))
        return 1


def _serve(config: Config, prepared: Path) -> int:
    pool, run_dir = config.kvstore, config.run_dir
    state_dir = Path(pool.state_dir or run_dir)
    members = tuple((group, tenant.name) for tenant in config.tenants for group in tenant.groups)
    layout, prompts, need = _prepared(prepared)
    _check(layout)
    kind, device, why = choose(pool.arena)
    for directory in {run_dir, state_dir}:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    insist_on_private(run_dir)
    signals = _Signals()
    tracer = start_tracer("kvstore", "kvstore", config.serve.otlp_traces_endpoint)
    with closing(Roster(run_dir)) as roster, closing(Mappers(run_dir)) as mappers:
        sized = pool_size(pool, layout.block_bytes, device, roster, _engines_need(need, config))
        pool = replace(pool, blocks=sized.blocks)
        size = layout.arena_bytes(pool.blocks)
        # Before the store makes its own arrays for so many blocks.
        check_fits(size, device) if device else check_capacity(size, reserve=pool.reserve)
        state = State(pool.blocks, layout.block_size, make_policy(pool.policy, pool.blocks))
        documents = StateDir(state_dir)
        declarations = Declarations(documents)
        state.groups = declarations.groups(members)
        _publish(state, prompts, declarations, pool, prepared)
        _restore_quotas(state, documents, pool)
        key = root_key(state_dir)
        raise_descriptor_limit()
        listener, accepted = _settle(mappers, run_dir, pool.fence_grace_ms)
        settle_weights(run_dir, pool.fence_grace_ms)
        with (
            closing(make(kind, device, size, roster, reserve=pool.reserve)) as arena,
            ThreadPoolExecutor(1, "disk") as disk,
            weights_server(pool, run_dir, kind, device) as weights,
        ):
            service = Service(
                state,
                layout,
                arena.handle(),
                key,
                lease_ms=pool.lease_ms,
                started_ms=time.monotonic_ns() // 1_000_000,
                version=__version__,
                state_dir=documents,
                declarations=declarations,
                disk=disk,
            )
            if weights is not None:
                service.weights = lambda: weights.info
            admission = DeviceAdmission(arena.fd, mappers if device else None, accepted)
            options = ServerOptions(pool.fence_grace_ms, pool.fence_kill, pool.debug)
            with event_stream(pool, service, run_dir) as publisher:
                server = Server(service, run_dir, options, listener, admission, publisher, tracer)
                report_facts(
                    blocks=sized.blocks,
                    bytes=size,
                    block_size=layout.block_size,
                    sized_by=sized.reason,
                    arena=kind,
                    arena_reason=why,
                    as_configured=why == AS_CONFIGURED,
                )
                _loop(server, service, arena, config, signals, sized)
    if tracer is not None:
        tracer.close()
    return 0


def _settle(mappers: Mappers, run_dir: Path, grace_ms: int) -> tuple[Listener | None, tuple[Accepted, ...]]:
    """Before memory is made: wait for processes that may still write to an earlier device arena, then kill them."""
    if not mappers.old:
        return None, ()
    listener = Listener(run_dir)
    return listener, tuple(mappers.settle(listener, grace_ms))


def _loop(server: Server, service: Service, arena: Arena, config: Config, signals: _Signals, sized: PoolSize) -> None:
    refused: list[str] = []

    def refuse(why: str) -> None:
        refused.append(why)
        server.stop()

    taken, size = None, service.layout.arena_bytes(sized.blocks)
    try:
        if config.kvstore.reserve and isinstance(arena, ShmArena):
            taken = Reservation(arena.file, size, refuse)
        signals.stop_at_first(server)
        log.info(
            "kvstore_started",
            boot=service.boot.hex(),
            blocks=sized.blocks,
            bytes=size,
            sized_by=sized.reason,
            layout=service.layout.fingerprint(),
            arena=service.arena.type,
            run_dir=str(config.run_dir),
        )
        tune_gc()
        server.serve()
    finally:
        if taken:
            taken.close()
        server.close()
    if refused:
        raise StartError(refused[0])
    log.info("kvstore_stopped", **service.state.pool.counts())


class _Signals:
    """SIGTERM and SIGINT, caught before there is anything to leave behind."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._seen = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def stop_at_first(self, server: Server) -> None:
        """Let the first signal stop this server, even if it came already."""
        self._server = server
        if self._seen:
            server.stop()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._seen:
            os._exit(128 + number)
        self._seen = True
        if self._server is not None:
            self._server.stop()


def _prepared(path: Path) -> tuple[Layout, list[Any], dict[str, int]]:
    try:
        value = read_prepared(path)
        given = value.get("device_need")
        need = {name: int(given[name]) for name in NEED} | {"weights": int(given.get("weights", 0))} if given else {}
        return from_map(Layout, value["layout"]), list(value.get("published", [])), need
    except OSError as exc:
        raise StartError(f"prepared file {path}: {exc.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, CodecError) as exc:
        raise StartError(f"{path}: not a prepared file: {exc}") from None


def _engines_need(need: dict[str, int], config: Config) -> int:
    """Bytes that the engines of this host need of a GPU, as far as a prepared file's ``device_need`` says it; of
    weights that they share, one copy."""
    if not need:
        return 0
    tokens = config.engine.max_batch_tokens or need["tokens"]
    sequences = config.engine.max_sequences or need["sequences"]
    once = (config.serve.engines - 1) * need.get("weights", 0) if config.kvstore.share_weights else 0
    return config.serve.engines * (need["fixed"] + tokens * need["token"] + sequences * need["sequence"]) - once


def _check(layout: Layout) -> None:
    if (layout.shard_rank, layout.shard_size) != (0, 1):
        raise StartError(f"layout {asdict(layout)}: only shard 0 of 1 is served")


def _restore_quotas(state: State, documents: StateDir, pool: KvstoreSettings) -> None:
    """What may be guaranteed, and the quotas that were declared before."""
    quotas = state.quotas
    quotas.pin_budget = int(pool.pin_budget * pool.blocks)
    quotas.quarantine_reserve = int(pool.quarantine_reserve * pool.blocks)
    quota.restore(documents, state)


def _publish(
    state: State, prompts: list[Any], declarations: Declarations, pool: KvstoreSettings, prepared: Path
) -> None:
    """Enter what the configuration publishes and what was published live; under one id the configuration counts."""
    publications = state.publications
    for prompt in prompts:
        try:
            publications.add(str(prompt["id"]), str(prompt["domain"]), [int(token) for token in prompt["tokens"]])
        except (ValueError, KeyError, TypeError, OverflowError) as exc:
            raise StartError(f"{prepared}: published: {exc}") from None
    declarations.restore_publications(publications)
    pinned, budget = publications.blocks(state.block_size), int(pool.pin_budget * pool.blocks)
    publications.budget = budget
    if pinned > budget:
        raise StartError(
            f"the published prompts need {pinned} blocks and may pin {budget} "
            f"({pool.pin_budget:.0%} of {pool.blocks}): raise --blocks or --pin-budget"
        )


if __name__ == "__main__":
    sys.exit(main())
