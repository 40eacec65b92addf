"""``quire engine``: one engine process.

Loads the model, proves by the self-test that our attention gives what the model's own gives, then serves until it is
stopped. A signal is a drain: other engines take over what it works on, and it ends when nothing is left or ``leave_s``
seconds are over; a second signal ends it at once. It attaches to whichever kvstore listens in the run directory, again
and again, and to the gateway likewise; neither needs to be up first.

Exit codes: 0 stopped, 1 failed, 2 a usage error: settings, or a model that is refused (its files, layout or self-test),
4 the CUDA context is poisoned, or weights that came by IPC are gone with their kvstore: nothing is wrong with model or
configuration, and a new process (the supervisor starts one) can go on, 5 the GPU's memory is full. With 1, 2 and 5 the
last line on stderr says why.
"""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import FrameType

import structlog
import torch

from quire_engine.backends import CPU, BackendChoice, BackendRefused, choose_backend
from quire_engine.checkpoint.demands.positions import served_length
from quire_engine.checkpoint.demands.token_cost import token_cost
from quire_engine.checkpoint.layout import layout_of
from quire_engine.checkpoint.load_progress import watched
from quire_engine.checkpoint.refusal import first_line
from quire_engine.checkpoint.vocabulary import read_vocabulary
from quire_engine.checkpoint.weights.dtype import AUTO_DTYPE, compute_dtype
from quire_engine.checkpoint.weights.identity import weights_key
from quire_engine.engine import Engine
from quire_engine.grammar.compiler import GrammarCompiler
from quire_engine.kv.attach import ContextPoisoned, gpu_uuid
from quire_engine.kv.device_memory import full_memory, memory_is_full
from quire_engine.model.model import Model, ModelRefused
from quire_engine.model.selftest.invariance import batch_dependence
from quire_engine.model.selftest.selftest import self_test
from quire_engine.model.selftest.verdict_cache import found_once
from quire_engine.model.shared.shared_model import WeightsPlace, load_shared_model
from quire_engine.model.shared_gpu.device_model import WeightsDesk, load_device_model
from quire_engine.scheduling.front import Front
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_engine.scheduling.step_log import StepLog
from quire_kv import DeviceFault, KVClient, Layout, QuireError
from quire_proto.gateway_link import Hello
from quire_proto.spans import Tracer
from quire_proto.wire.u32 import pack_u32
from quire_services.config.settings import Config
from quire_services.config.socket_names import GATEWAY_SOCKET
from quire_services.process import flags, logs, start_report
from quire_services.process.gc_tuning import tune_gc
from quire_services.process.model.refusal_line import refusal_line
from quire_services.process.model.served_model import dtype_here, settled
from quire_services.process.preload.environment import drop_registration, in_effect, preload_in_words
from quire_services.process.reason import StartError, complain
from quire_services.tracing.switch import start_tracer

from .engine_flags import engine_parser

EXIT_POISONED, EXIT_DEVICE_FULL = 4, 5
NO_HOST_MEMORY = "DefaultCPUAllocator"  # torch's own error for it is no class of its own

log = structlog.get_logger()


def main(argv: list[str] | None = None) -> int:
    """Run an engine; returns the exit code."""
    parser = engine_parser()
    arguments = parser.parse_args(argv)
    config = flags.read_config(parser, arguments)
    if not config.serve.model:
        parser.error("--model is needed")
    logs.configure(arguments.name, form=config.serve.log_format)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(config.engine.threads or max(1, cores // config.serve.engines))
    drop_registration(begin=True)
    try:
        attention = choose_backend(config.engine.attention)
    except BackendRefused as exc:
        parser.error(f"engine.attention = {config.engine.attention}: {exc}")
    try:
        config = settled(config)
        return _run(config, arguments, attention)
    except StartError as exc:
        return _complain(2, str(exc))
    except (ModelRefused, OSError, ValueError) as exc:
        return _complain(2, refusal_line(config.serve.model, exc))
    except (ContextPoisoned, DeviceFault, MemoryError, RuntimeError) as exc:
        return _fail(exc, config, attention)
    except QuireError as exc:
        return _complain(1, str(exc))


def _fail(error: Exception, config: Config, attention: BackendChoice) -> int:
    """End because of a device or its memory; returns the exit code, if at all. Raises what is neither."""
    if memory_is_full(error):
        limits = _limits(config, attention)
        why = full_memory(error, attention.device, limits.max_batch_tokens, limits.max_sequences)
        return _complain(EXIT_DEVICE_FULL, why)
    if isinstance(error, ContextPoisoned | DeviceFault | torch.AcceleratorError):  # the last: while the model is loaded
        _end_poisoned(first_line(error))
    if isinstance(error, MemoryError) or NO_HOST_MEMORY in str(error):
        return _complain(1, f"out of memory: {first_line(error)}")
    raise error


def _end_poisoned(reason: str) -> None:
    """End at once: CUDA's own clean-up may hang in such a process."""
    log.error("context_poisoned", reason=reason)
    os._exit(EXIT_POISONED)


def _complain(code: int, reason: str) -> int:
    """Say why this engine ends, as its last line; returns the exit code."""
    complain("quire engine", reason)
    return code


def _run(config: Config, arguments: argparse.Namespace, attention: BackendChoice) -> int:
    directory = Path(config.serve.model)
    layout = layout_of(directory, config.kvstore.stored_dtype, config.kvstore.block_size)
    attention.admit(layout)
    attention.admit_dtype(config.kvstore.dtype)
    with watched(start_report.report_load_share):
        model = _load(config, attention, layout)
    model.max_model_len = served_length(model.config, config.engine.max_model_len)
    _prove(model, layout, attention)
    log.info(
        "model_loaded",
        model=layout.model,
        layout=layout.fingerprint(),
        attention=attention.kind,
        device=str(attention.device),
        preloaded=in_effect(),
        weights=weights_key(directory, layout.weights, config.kvstore.dtype).name,  # engines that say the same agree
    )
    start_report.report_facts(
        kernels=attention.kernels(layout),
        computes=f"{config.kvstore.dtype} on {attention.device}",
        dtype=config.kvstore.dtype,
        checkpoint_dtype=compute_dtype(directory, AUTO_DTYPE),
        auto_dtype=dtype_here(directory, replace(config, kvstore=replace(config.kvstore, dtype=AUTO_DTYPE))),
        weight_bytes=model.weight_bytes,
        weights_shared=model.weights_shared,
        weights_private=model.weights_private,
        quantised=model.quantised,
        max_model_len=model.max_model_len,
        token_cost=token_cost(model.config, layout),
        threads=torch.get_num_threads(),
        preload=preload_in_words(config.engine),
    )
    if attention.kind == CPU:
        _say_what_texts_depend_on(model, layout, attention)
    compiler = GrammarCompiler(lambda: read_vocabulary(directory, model.vocab_size, model.eos_ids))
    tracer = start_tracer("engine", arguments.name, config.serve.otlp_traces_endpoint)
    engine = _engine(config, arguments.name, model, layout, attention, compiler, tracer)
    path = config.run_dir / GATEWAY_SOCKET
    engine.front = Front(path, _hello(arguments.name, config.engine.role, model, layout), engine.load)

    def stop(_signum: int, _frame: FrameType | None) -> None:
        signal.signal(_signum, signal.SIG_DFL)  # the second signal ends the process at once
        engine.leave(config.engine.leave_s)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    engine.front.start()
    tune_gc()
    try:
        engine.run()
    finally:
        engine.front.stop()
        compiler.close()
        if tracer is not None:
            tracer.close()
    return 0


def _load(config: Config, attention: BackendChoice, layout: Layout) -> Model:
    """The model, over the one copy of its weights that this GPU or this host has, where that is possible."""
    directory, dtype, checkpoint = Path(config.serve.model), config.kvstore.dtype, layout.weights
    if attention.on_gpu:
        desk = WeightsDesk(config.run_dir, _end_poisoned)
        return load_device_model(directory, dtype, attention.device, checkpoint, desk)
    return load_shared_model(directory, dtype, attention.device, checkpoint, WeightsPlace(config.engine.weights_path))


def _prove(model: Model, layout: Layout, attention: BackendChoice) -> None:
    """Raise ModelRefused unless the self-test passes, also where the model's own code falls over on the way."""
    try:
        self_test(model, layout, lambda arena: attention.backend(arena, model))
    except (
        ValueError,
        OSError,
        QuireError,
        ContextPoisoned,
        torch.AcceleratorError,
        torch.OutOfMemoryError,
        MemoryError,
    ):
        raise
    except Exception as error:
        if NO_HOST_MEMORY in str(error) or memory_is_full(error):
            raise
        raise ModelRefused(f"the self-test failed: {type(error).__name__}: {first_line(error)}") from error


def _say_what_texts_depend_on(model: Model, layout: Layout, attention: BackendChoice) -> None:
    """In the log: whether a request's tokens and log-probabilities may change with what is computed beside it."""
    depends_on = (layout.fingerprint(), torch.get_num_threads())
    why_not = found_once(
        "batch-dependence",
        depends_on,
        lambda: batch_dependence(model, layout, lambda arena: attention.backend(arena, model)),
    )
    log.info("batch_invariant", holds=not why_not, **({"reason": why_not} if why_not else {}))


def _engine(
    config: Config,
    name: str,
    model: Model,
    layout: Layout,
    attention: BackendChoice,
    compiler: GrammarCompiler,
    tracer: Tracer | None,
) -> Engine:
    limits = _limits(config, attention)
    step_log = Path(config.engine.step_log.replace("{name}", name)) if config.engine.step_log else None
    uuid = gpu_uuid(attention.device)

    def attach() -> KVClient:
        if model.weights_hold is not None:
            model.weights_hold.insist()
        return KVClient(config.run_dir, name=name, layout=layout, gpu_uuid=uuid)

    return Engine(
        attach=attach,
        make_runner=lambda client: attention.runner(client, model, limits),
        limits=limits,
        max_model_len=model.max_model_len,
        vocab_size=model.vocab_size,
        eos_ids=model.eos_ids,
        step_log=StepLog(step_log),
        prefill=config.engine.prefill,
        compiler=compiler,
        tracer=tracer,
    )


def _limits(config: Config, attention: BackendChoice) -> SchedulerLimits:
    return attention.limits(config.engine.max_batch_tokens, config.engine.max_sequences, config.kvstore.block_size)


def _hello(name: str, role: str, model: Model, layout: Layout) -> Hello:
    return Hello(
        engine=name,
        model=layout.model,
        max_model_len=model.max_model_len,
        vocab_size=model.vocab_size,
        eos_token_ids=pack_u32(sorted(model.eos_ids)),
        pid=os.getpid(),
        role=role,
    )


if __name__ == "__main__":
    raise SystemExit(main())
