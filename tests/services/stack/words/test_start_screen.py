"""The screen that a start ends with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from quire_services.config.settings import Config, GatewaySettings, KvstoreSettings, Tenant
from quire_services.process.start_report import facts_of, report_facts
from quire_services.stack.words.start_screen import StartFacts, start_screen

POOL = {
    "blocks": 4096, "bytes": 3 << 29, "block_size": 16, "sized_by": "kv_gib = 1.5", "arena": "shm",
    "arena_reason": "in host memory: no CUDA driver",
}  # fmt: skip
ENGINE = {"kernels": "C", "computes": "float32 on cpu", "max_model_len": 8192, "token_cost": "64 bytes", "threads": 1}
PRELOAD = "/usr/lib/libtcmalloc_minimal.so.4"


def _screen(config: Config, **found: Any) -> str:
    return "\n".join(start_screen(config, StartFacts(**found)))


def _command(screen: str, **environ: str) -> list[str]:
    """The words that the shell makes of the first command."""
    line = next(line for line in screen.splitlines() if line.startswith("  curl "))
    told = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], env=environ, capture_output=True, text=True)
    return told.stdout.split("\0")[:-1]


def test_it_says_what_each_process_found_out() -> None:
    """Model, engines, the pool and what sized it, a token's cost, the arena and why, kernels, what is preloaded."""
    engines = [("engine-1", {**ENGINE, "preload": PRELOAD}), ("engine-2", ENGINE)]
    screen = _screen(Config(), kvstore=POOL, gateway={"model": "m", "chats": True}, engines=engines)
    assert screen.splitlines()[1:8] == [
        "  model    m, float32 on cpu, sequences of up to 8,192 tokens",
        "  engines  engine-1, engine-2, 1 thread each",
        "  pool     4,096 blocks, 65,536 tokens, 1.50 GiB (1,610,612,736 bytes); kv_gib = 1.5",
        "  token    64 bytes",
        "  arena    shm, in host memory: no CUDA driver",
        "  kernels  C",
        f"  preload  {PRELOAD}",
    ]


def test_engines_that_differ_are_told_apart() -> None:
    """One without a compiler is named."""
    slow = {**ENGINE, "kernels": "PyTorch: no C compiler"}
    screen = _screen(Config(), engines=[("engine-1", ENGINE), ("engine-2", slow)])
    assert "  kernels  engine-1: C; engine-2: PyTorch: no C compiler" in screen


def test_weights_are_said_in_bytes_and_beside_the_checkpoint() -> None:
    """What was chosen, what it costs, and whether that is how the checkpoint is."""
    facts = {**ENGINE, "dtype": "bfloat16", "checkpoint_dtype": "bfloat16", "weight_bytes": 3 << 29}
    said = "  weights  1.50 GiB (1,610,612,736 bytes) in each engine; bfloat16, as in the checkpoint"
    assert said in _screen(Config(), engines=[("engine-1", facts)])
    shared = _screen(Config(), engines=[("engine-1", {**facts, "weights_shared": True})])
    assert said.replace("in each engine", "once for all engines") in shared
    private = _screen(Config(), engines=[("engine-1", {**facts, "weights_private": "/x has no room"})])
    assert f"{said}; not shared: /x has no room" in private
    wide = {**facts, "dtype": "float32"}
    assert "float32, the checkpoint is in bfloat16: --dtype auto takes that" in _screen(
        Config(), engines=[("engine-1", wide)]
    )


def test_a_type_that_auto_does_not_take_is_explained() -> None:
    """Where the processor has no arithmetic for the checkpoint's own: what was taken, or what auto would take."""
    facts = {**ENGINE, "checkpoint_dtype": "float16", "auto_dtype": "bfloat16", "weight_bytes": 3 << 29}
    taken = _screen(Config(), engines=[("engine-1", {**facts, "dtype": "bfloat16"})])
    assert "bfloat16, the checkpoint is in float16, for which this processor has no arithmetic: computed in" in taken
    wide = _screen(Config(), engines=[("engine-1", {**facts, "dtype": "float32"})])
    assert "float32, the checkpoint is in float16: --dtype auto takes bfloat16 here" in wide


def test_an_arena_that_follows_the_engines_says_so() -> None:
    """The kvstore was told where; the reason is the engines' setting."""
    found = {**POOL, "as_configured": True, "arena_reason": "as configured (kvstore.arena)"}
    assert "  arena    shm, because engines compute on the CPU (engine.attention)" in _screen(Config(), kvstore=found)
    chosen = Config(kvstore=KvstoreSettings(arena="shm"))
    assert "  arena    shm, as configured (kvstore.arena)" in _screen(chosen, kvstore=found)


def test_the_command_takes_the_key_from_a_variable() -> None:
    """Whatever the model is called; the listening address of all interfaces is asked at the loopback."""
    config = Config(gateway=GatewaySettings(host="0.0.0.0", port=80), tenants=(Tenant("acme", ("secret-7",)),))
    screen = _screen(config, gateway={"model": "it's $HOME", "chats": True})
    assert "secret-7" not in screen
    words = _command(screen, QUIRE_API_KEY="secret-7", PATH="/usr/bin:/bin")
    assert words[:4] == ["curl", "http://127.0.0.1:80/v1/chat/completions", "-H", "authorization: Bearer secret-7"]
    assert json.loads(words[-1])["model"] == "it's $HOME"


def test_a_model_without_a_chat_template_is_asked_for_a_completion() -> None:
    """What would be refused is not proposed; of a gateway that says nothing the models are."""
    assert "/v1/completions " in _screen(Config(), gateway={"model": "m", "chats": False})
    assert "curl http://127.0.0.1:8000/v1/models" in _screen(Config())


def test_what_cannot_be_read_is_no_fact(tmp_path: Path) -> None:
    """Of a file that is empty, damaged or something else."""
    for content in (b"", b"\0" * 20000, b"\0" * 4112 + b"[1]", b"\0" * 4112 + b'{"a": '):
        (tmp_path / "file").write_bytes(content)
        with (tmp_path / "file").open("rb") as file:
            assert facts_of(file.fileno()) == {}
    report_facts(nobody="listens")
