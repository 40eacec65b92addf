"""Settings: every key of the configuration, with default, bounds and one line of help.

Owns the names. The ``loader``, the command line flags and the documentation of a key all come from the
fields below, so a key is added here and nowhere else. Field names are unique over all sections, because a flag is
named after its field alone: ``kvstore.block_size`` is ``--block-size`` and ``QUIRE_KVSTORE_BLOCK_SIZE``.
All classes are frozen: configuration is read once, in ``services``, and passed down as values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quire_proto.gateway_link import BOTH, DECODE, PREFILL
from quire_proto.wire.layout import E4M3

CANONICAL = "canonical"
POOL_SIZES = ("blocks", "kv_gib", "kv_fraction")  # settings of the kvstore of which one counts
MAX_BODY_BYTES = 32 << 20  # of any request, and of a file that becomes a published prompt


def setting(
    default: Any, help: str, *, at_least: float | None = None, at_most: float | None = None, among: tuple[str, ...] = ()
) -> Any:
    """A dataclass field that carries its bounds and its help."""
    return field(default=default, metadata={"help": help, "at_least": at_least, "at_most": at_most, "among": among})


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What concerns the whole stack of one host."""

    model: str = setting(
        "",
        "directory of the model (safetensors, as transformers saves it), or its name on the Hugging Face hub, org/name:"
        " taken from the hub's cache on this host, and fetched into it if it is not there",
    )
    revision: str = setting("", "of a model on the hub: branch, tag or commit (default: main)")
    engines: int = setting(1, "engine processes that share the pool", at_least=1, at_most=64)
    prefill_engines: int = setting(
        0, "of these, engines that compute prompts only; the others go on from there (0: each does both)", at_least=0
    )
    run_dir: str = setting("", "directory of sockets and state (default: one per user and port)")
    log_format: str = setting(
        "auto",
        "form of the logs on stderr: one JSON object a line, or lines for people; auto: the latter on a terminal",
        among=("auto", "console", "json"),
    )
    otlp_traces_endpoint: str = setting(
        "",
        "where OpenTelemetry traces of requests are sent (OTLP over HTTP), as http://127.0.0.1:4318/v1/traces; empty:"
        " none are made",
    )
    declarations: str = setting(
        "",
        "store that says what is true on every node of a cluster: valkey://HOST:PORT/DB, file:///DIRECTORY, or @FILE"
        " with the address; tenants then come from there alone",
    )
    node_name: str = setting("", "what this node is called there (default: this machine's name and the port)")


@dataclass(frozen=True, slots=True)
class KvstoreSettings:
    """The pool. Its size is said in one of three ways (``POOL_SIZES``), and does not change while it runs."""

    blocks: int = setting(
        0,
        "blocks in the pool (0: 4096 in host memory, and on a GPU 0.95 of what its engines leave free)",
        at_least=0,
        at_most=2**31 - 1,
    )
    kv_gib: float = setting(0.0, "size of the pool in GiB, in place of blocks (0: say blocks)", at_least=0)
    kv_fraction: float = setting(
        0.0,
        "size of the pool as a share of the memory that is free at the start where it lies, on the host, or on the GPU"
        " beside its engines, in place of blocks (0: say blocks)",
        at_least=0,
        at_most=1,
    )
    block_size: int = setting(16, "tokens in a block", at_least=1, at_most=1024)
    arena: str = setting(
        "auto",
        "where the blocks are; auto: on a GPU if the engines compute on one and it can be shared, else in host memory",
        among=("auto", "shm", "cuda-ipc", "cuda-vmm-fd"),
    )
    dtype: str = setting(
        "auto",
        "element type the model computes in; auto: that of its checkpoint",
        among=("auto", "float32", "bfloat16", "float16"),
    )
    kv_cache_dtype: str = setting(
        "auto",
        "element type keys and values are stored in; auto: as the model computes; fp8 is short for fp8_e4m3",
        among=("auto", "fp8", "fp8_e4m3"),
    )
    reserve: bool = setting(True, "take the pool's host memory at the start; false: as its blocks are first written")
    share_weights: bool = setting(
        True, "offer the engines of one GPU one copy of the weights (weights.sock); false: each loads its own"
    )
    weights_keep_s: float = setting(
        600.0,
        "seconds that weights on a GPU stay when no engine maps them any more, for one that is started again; they go"
        " earlier where other weights need the space",
        at_least=0,
    )
    state_dir: str = setting(
        "",
        "directory of what survives boots: root key, groups, published prompts (default: a part of the run directory)",
    )
    lease_ms: int = setting(5000, "milliseconds without a heartbeat after which a session is fenced", at_least=100)
    fence_grace_ms: int = setting(2000, "milliseconds after which a fenced process is killed", at_least=0)
    fence_kill: bool = setting(True, "kill a fenced process of the same user after its grace")
    pin_budget: float = setting(0.5, "share of the pool that published prompts may pin", at_least=0, at_most=1)
    quarantine_reserve: float = setting(
        0.05, "share of the pool kept back for fenced sessions once something is guaranteed", at_least=0, at_most=1
    )
    policy: str = setting("density", "what is evicted first", among=("density", "lru"))
    events: str = setting(
        "", "where the events of the cache are published: ipc (in the run directory) or tcp://ADDRESS:PORT"
    )
    events_network: str = setting(
        "loopback",
        "who may reach an address of events without CURVE: users of this host, and they are told no tenant's tokens; or"
        " whoever is in its private network; or anyone",
        among=("loopback", "private", "any"),
    )
    events_curve: str = setting(
        "", "directory with server.key_secret and readers/*.key: events go only to those readers, encrypted (CURVE)"
    )
    events_topic: str = setting("", "topic of the events")
    events_tokens: str = setting(
        "none",
        "whose token ids are in the events: none, what is published to all, or those of all tenants (over tcp only with"
        " CURVE, or a network that is said to be private)",
        among=("none", "public", "all"),
    )
    events_tenants: str = setting(
        "named",
        "whether events say whose a chain of blocks is; unnamed: for routers that know of one tenant only",
        among=("named", "unnamed"),
    )
    events_hashes: str = setting(
        "int",
        "how events name a block: the last 8 bytes of its digest as a number, or the digest",
        among=("int", "bytes"),
    )
    debug: bool = setting(False, "check the store's invariants when idle")

    @property
    def sized_by(self) -> str:
        """The setting that says the pool's size."""
        return "kv_gib" if self.kv_gib else "kv_fraction" if self.kv_fraction else "blocks"

    @property
    def stored_dtype(self) -> str:
        """The layout's name of the element type that keys and values are stored in, once ``dtype`` is settled."""
        return self.dtype if self.kv_cache_dtype == "auto" else E4M3


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What each engine is started with."""

    attention: str = setting(
        "auto",
        "attention backend; auto: triton where torch finds a GPU, else cpu",
        among=("auto", "cpu", "triton"),
    )
    max_batch_tokens: int = setting(0, "token budget of a scheduler step (0: 512 on a CPU, 8192 on a GPU)", at_least=0)
    max_model_len: int = setting(
        0, "longest sequence in tokens, prompt and answer (0: what the model is made for)", at_least=0
    )
    max_sequences: int = setting(
        0, "sequences computed at the same time, per engine (0: 64 on a CPU, 256 on a GPU)", at_least=0
    )
    preload: bool = setting(
        True,
        "load libiomp5 and tcmalloc, where they are found, before an engine that computes on a CPU: its threads wake"
        " quicker, and its memory comes quicker",
    )
    threads: int = setting(0, "torch threads per engine (0: cores / engines)", at_least=0)
    role: str = setting(
        BOTH,
        "what it is for: prefill computes prompts and hands them to others after the first token, decode goes on with"
        " them; each does the other where there is no other",
        among=(BOTH, PREFILL, DECODE),
    )
    leave_s: float = setting(
        8.0,
        "seconds in which an engine that is stopped hands over, or finishes, what it works on; what is left goes on"
        " elsewhere from what is cached",
        at_least=0,
    )
    weights_dir: str = setting(
        "auto",
        "directory in which weights that were converted or packed are kept once for all engines of the host; auto:"
        " quire/weights in the user's cache directory; none: each engine keeps its own",
    )
    prefill: bool = setting(True, "compute published prompts before a request asks for them")
    step_log: str = setting("", "file that gets one JSON line a step; {name} in it stands for the engine's name")

    @property
    def weights_path(self) -> Path | None:
        """Where weights are kept once; None for nowhere."""
        if self.weights_dir == "none":
            return None
        return cache_dir() / "quire" / "weights" if self.weights_dir == "auto" else Path(self.weights_dir).absolute()


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The HTTP side."""

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8000, "port to listen on", at_least=0, at_most=65535)
    published_host: str = setting(
        "", "address of the host on which a container's port is published; without API keys it must be a loopback"
    )
    keys_file: str = setting(
        "", "TOML file with [[tenants]] and their API keys, for a configuration that others read, too"
    )
    served_model_name: str = setting(
        "", "name of the model in the API (default: the directory's name, or org/name in the hub's cache)"
    )
    model_aliases: str = setting(
        "", "further names of the model in the API, separated by commas, for clients that insist on one"
    )
    max_queue: int = setting(
        512, "requests that may wait for their first token; a tenant that fills the queue gets 429", at_least=1
    )
    admin_port: int = setting(0, "port of the admin API, on the loopback (0: none)", at_least=0, at_most=65535)
    remembered_requests: int = setting(
        0,
        "chats of each tenant of which system messages and tools are kept in memory, for an operator who publishes them"
        " by request id (0: none)",
        at_least=0,
        at_most=1024,
    )
    admin_token_file: str = setting("", "file with the admin API's token (default: made in the run directory)")
    max_body_bytes: int = setting(
        0,
        "bytes of a request's body, at least 16 KiB (0: 64 for each token of the model's context, from 4 to 32 MiB)",
        at_least=0,
        at_most=MAX_BODY_BYTES,
    )
    allowed_origins: str = setting(
        "", "origins of web pages that may use the gateway from a browser, separated by commas; * for all"
    )
    allowed_hosts: str = setting(
        "", "names of this host, separated by commas, for a gateway without keys; addresses and localhost need none"
    )
    metrics_networks: str = setting(
        "127.0.0.0/8, ::1",
        "networks from which /metrics is read, without a key, separated by commas (empty: none, on this port)",
    )
    max_connections: int = setting(
        0, "connections at once (0: 4096, or what the limit of open files leaves)", at_least=0, at_most=10**6
    )
    write_timeout_s: float = setting(
        60.0, "seconds without progress after which a client that does not read is cut off", at_least=0.1
    )
    generation_config: str = setting(
        "auto",
        "defaults of sampling: auto (of the model's generation_config.json), none, or a directory that holds one",
    )
    special_tokens_in_messages: str = setting(
        "text",
        "what a special token that a message spells becomes: text, or the token itself",
        among=("text", "tokens"),
    )
    tools_in_prompt: str = setting(
        "as-sent",
        "tools as the chat template sees them: as-sent, or canonical: what frameworks add to a function is left out, so"
        " that equal functions are equal tokens; docs/operate/published-prompts.md",
        among=("as-sent", CANONICAL),
    )
    tool_parser: str = setting(
        "auto",
        "how the model writes tool calls: auto (found out from its chat template and tokenizer), or a name: hermes,"
        " llama3_json, mistral, pythonic, qwen3_coder, deepseek, harmony; docs/operate/prompts.md has all",
    )
    stored_responses: int = setting(
        4096, "responses of a tenant that are kept, for requests that go on from one (0: none)", at_least=0
    )
    stored_response_bytes: int = setting(
        64 << 20, "bytes of all responses that are kept; the tenant that has most gives up its oldest", at_least=1 << 20
    )
    stored_response_s: float = setting(86_400.0, "seconds that a response is kept after its last use", at_least=1)
    trust_request_chat_template: bool = setting(
        False, "take chat templates from requests: each may keep a reader busy for ten seconds"
    )
    ping_s: float = setting(
        15.0, "seconds of silence after which a stream sends a comment, which clients skip (0: never)", at_least=0
    )
    hold_s: float = setting(
        10.0,
        "seconds that a request, begun or not, waits for an engine that is expected; then it gets 503",
        at_least=0,
    )
    begin_s: float = setting(
        600.0, "seconds in which an answer must begin, else its request gets 503; a client may say less", at_least=0.1
    )
    drain_s: float = setting(8.0, "seconds that running requests have to end when the gateway is stopped", at_least=0)

    @property
    def canonical_tools(self) -> bool:
        """Whether templates see tools in their canonical form."""
        return self.tools_in_prompt == CANONICAL


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant, the API keys that name it, and the groups it belongs to."""

    name: str
    keys: tuple[str, ...]
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedPrompt:
    """A system prompt that is shared on purpose: a text file, put into a share domain under an id, with the tools that
    every request with it sends, if any."""

    file: Path
    domain: str
    id: str
    tools: Path | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, as read once at start."""

    serve: ServeSettings = ServeSettings()
    kvstore: KvstoreSettings = KvstoreSettings()
    engine: EngineSettings = EngineSettings()
    gateway: GatewaySettings = GatewaySettings()
    tenants: tuple[Tenant, ...] = ()
    published: tuple[PublishedPrompt, ...] = ()
    file: Path | None = None

    @property
    def run_dir(self) -> Path:
        """The run directory: as set, or the default for this port."""
        return Path(self.serve.run_dir).absolute() if self.serve.run_dir else default_run_dir(self.gateway.port)


SECTIONS: dict[str, type] = {
    "serve": ServeSettings,
    "kvstore": KvstoreSettings,
    "engine": EngineSettings,
    "gateway": GatewaySettings,
}


def cache_dir() -> Path:
    """The user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def default_run_dir(port: int) -> Path:
    """``$XDG_RUNTIME_DIR/quire-<port>``, or a directory of this user's under /tmp where that is not set."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / f"quire-{port}" if base else Path(f"/tmp/quire-{os.getuid()}-{port}")
