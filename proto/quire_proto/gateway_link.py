"""Link: the messages between an engine and the gateway (PROTOCOL.md section 17).

One AF_UNIX stream per engine, the engine connects. Each message is a 4-byte little-endian length and one
MessagePack map whose ``type`` field names it. A stream, not a ZeroMQ socket, because the end of an engine must be
seen at once and by name: the kernel closes the stream of a killed process.

    engine  -> gateway   hello, then load (every half second and on change), received, and outputs (one a step)
    gateway -> engine    generate, abort, handoff, drain; or refused, and the end of the connection
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quire_proto.wire.arrays import U32s
from quire_proto.wire.codec import CodecError, decode, encode, from_map, to_map
from quire_proto.wire.histogram import Distribution

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_GRAMMAR = 256 * 1024  # characters of a grammar
BOTH, PREFILL, DECODE = "both", "prefill", "decode"  # roles of engines
HANDOFF, LOSS = "handoff", "loss"  # why a continuation goes on elsewhere


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of an engine: its name and what it serves. ``role``: ``both``, ``prefill`` or ``decode``."""

    engine: str
    model: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: U32s
    pid: int
    role: str = BOTH
    type: str = "hello"


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is; ``ready`` is False while it has no kvstore. Counters, and ``times`` in seconds, since the
    engine started.

    ``longest``: tokens of a sequence that any request may have now; ``widest``: of the request whose publication leaves
    it most. 0 while there is no pool to ask. ``session``: its session with the kvstore, which others offer to;
    ``slots``: free places in the batch. ``leaving``: it is to end, and asks to be drained.
    """

    ready: bool
    running: int
    waiting: int
    counters: dict[str, int]
    times: dict[str, Distribution] = field(default_factory=dict)
    boot: bytes = b""
    longest: int = 0
    widest: int = 0
    session: bytes = b""
    slots: int = 0
    leaving: bool = False
    type: str = "load"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. ``top_k`` 0 and ``top_p`` 1 mean off; ``temperature`` 0 is greedy; ``logprobs`` is the
    number of alternatives + 1, 0 for none. ``grammar``: what a continuation must be, as llguidance reads it, UTF-8;
    ``likely_grammar``: what it most likely is of all that, by which tokens are drafted and none is forbidden.
    ``bias[i]`` is that of ``bias_token_ids[i]``; with ``allowed_token_ids`` no other token is chosen; each of
    ``bad_words`` is a sequence of tokens that is never completed. ``prompt_logprobs`` counts as ``logprobs`` does.
    With a ``beam_width`` nothing is drawn: the continuations are the best that a search with so many beams finds."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: U32s = b""
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int = 0
    grammar: bytes = b""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bias_token_ids: U32s = b""
    bias: tuple[float, ...] = ()
    allowed_token_ids: U32s = b""
    bad_words: tuple[U32s, ...] = ()
    prompt_logprobs: int = 0
    beam_width: int = 0
    length_penalty: float = 1.0
    early_stopping: str = ""
    likely_grammar: bytes = b""


@dataclass(frozen=True, slots=True)
class Generate:
    """A request: ``n`` continuations of one prompt. One that goes on from another engine is a request of its own, with
    ``n`` 1: ``index`` is its number among those that were asked for, and ``emitted`` are the tokens that its client has
    already: they are forced, not sampled, and not sent again. With a ``salt`` nothing is shared with requests of
    another salt or of none, publications included. ``weight``: the tenant's, from now on. ``offer``: what the engine
    before offers of it, ``computed`` tokens; ``cause``: why it goes on here, ``handoff`` or ``loss``, for counters.
    ``trace``: the traceparent of what it is a part of, if that is traced."""

    request: str
    tenant: str
    tokens: U32s
    sampling: Sampling
    n: int = 1
    index: int = 0
    priority: int = 0
    emitted: U32s = b""
    salt: str = ""
    weight: int = 100
    offer: bytes = b""
    computed: int = 0
    cause: str = ""
    trace: str = ""
    type: str = "generate"


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop one continuation (``index``) or, with ``every``, the whole request; its blocks come back."""

    request: str
    index: int = 0
    every: bool = True
    type: str = "abort"


@dataclass(frozen=True, slots=True)
class Continuation:
    """One continuation of a request."""

    request: str
    index: int


@dataclass(frozen=True, slots=True)
class Handoff:
    """Give these continuations back, their sequences offered to the session ``target``, at the next step's end."""

    target: bytes
    items: tuple[Continuation, ...]
    type: str = "handoff"


@dataclass(frozen=True, slots=True)
class Drain:
    """The engine gets nothing new from now on, and what it has is taken over; with ``on`` False it is as before."""

    on: bool = True
    type: str = "drain"


@dataclass(frozen=True, slots=True)
class Refused:
    """The gateway does not take this engine: its name is another's, or it serves something else than the others."""

    reason: str
    type: str = "refused"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of a token (natural log, before temperature) and of the most likely ones. ``rank``: of a token
    of a prompt, 1 for the most likely; 0 where it is not told."""

    logprob: float
    top_ids: U32s = b""
    top_logprobs: tuple[float, ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """New tokens of one continuation. ``finish``: "" (goes on), ``stop``, ``length``, ``abort`` or ``error``; an
    error has a ``code`` and a ``message``. ``abort``: it is given back, to go on elsewhere, with the name of the
    ``offer`` of its sequence, if there is one, and how many tokens of it were ``computed``. ``cached_tokens`` is set on
    the first output, which has no tokens if it is sent when the request is admitted, and on the first with tokens.
    ``prompt_logprobs``, if they are wanted, are those of the tokens but the first: some in each of the outputs of
    the first continuation before that. ``score``: of what a beam search found, which is sent whole. ``missing``: of the
    code ``over_limit``, blocks that the tenant's limit lacks for it; 0 where it is not the limit."""

    request: str
    index: int
    tokens: U32s = b""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str = ""
    cached_tokens: int = 0
    code: str = ""
    message: str = ""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    score: float = 0.0
    offer: bytes = b""
    computed: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Outputs:
    """All outputs of one engine step."""

    items: tuple[Output, ...]
    type: str = "outputs"


@dataclass(frozen=True, slots=True)
class Received:
    """A ``generate`` has arrived. What an engine dies of before that is nothing of its."""

    request: str
    type: str = "received"


Message = Hello | Load | Received | Outputs | Generate | Abort | Handoff | Drain | Refused
_TYPES: dict[str, type] = {
    "hello": Hello, "load": Load, "received": Received, "outputs": Outputs, "generate": Generate, "abort": Abort,
    "handoff": Handoff, "drain": Drain, "refused": Refused,
}  # fmt: skip


def link_name(request_id: str, own: str) -> str:
    """A name on the link of something that is done for a request: ``own`` is of that alone."""
    return f"{request_id}:{own}"


def request_id(name: str) -> str:
    """The id of the request that a name on the link is for, as clients and logs have it."""
    return name.rpartition(":")[0] or name


def encode_message(message: Message) -> bytes:
    """A message with its length prefix."""
    body = encode(to_map(message))
    return len(body).to_bytes(4, "little") + body


def decode_message(body: bytes) -> Message:
    """The bytes after the length prefix as a message; raises CodecError."""
    value = decode(body, MAX_MESSAGE_BYTES)
    tag = value.get("type") if isinstance(value, dict) else None
    cls = _TYPES.get(tag) if isinstance(tag, str) else None
    if cls is None:
        raise CodecError("BAD_FIELD", f"type must be one of {sorted(_TYPES)}")
    message: Message = from_map(cls, value)
    return message
