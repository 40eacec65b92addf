"""The flags of ``quire engine``, apart from what it imports: they are read before anything that computes is there."""

from __future__ import annotations

import os

from quire_services.process import flags

ENGINE_SETTINGS = (
    "model", "revision", "run_dir", "engines", "dtype", "kv_cache_dtype", "block_size", "attention", "max_batch_tokens",
    "max_sequences", "max_model_len", "preload", "threads", "weights_dir", "step_log", "prefill", "role", "leave_s",
    "port", "log_format", "otlp_traces_endpoint",
)  # fmt: skip


def engine_parser() -> flags.Parser:
    """A parser of them."""
    parser = flags.Parser(prog="quire engine", description="Run one engine: a model over the shared pool.")
    flags.add(parser, "serve", "kvstore", "engine", "gateway", only=ENGINE_SETTINGS)
    parser.add_argument("--name", default=f"engine-{os.getpid()}", help="name in logs and status")
    return parser
