"""Every error of the client library, as one tree.

    QuireError
      LocalError               this process broke a rule; nothing was sent
        LimitError             a request larger than the limits of the handshake
      RemoteError              the kvstore answered with an error code
        BadRequest             BAD_FRAME, BAD_VERSION, UNKNOWN_OP, BAD_FIELD, TOO_LARGE, UNSUPPORTED
        OutOfOrder             OUT_OF_ORDER: a gap in the session's sequence numbers
        NumberReused           NUMBER_REUSED: same number, other bytes
        DeadlineExceeded       DEADLINE: the deadline passed before execution
        StaleSession           STALE_SESSION: another boot id, or the session was fenced
        LayoutMismatch         LAYOUT_MISMATCH: the engine's layout is not the pool's
        NameTaken              NAME_TAKEN: another living process is attached under that name
        NotFound               NOT_FOUND, NO_SUCH: no such sequence, publication or digest
        Conflict               CONFLICT: the request contradicts the state (double free, fork past the fill mark, ...)
        Retry                  RETRY: a publication vanished between match and allocate
        NoSpace                NO_SPACE: not enough blocks
        Claimed                CLAIMED: another sequence is computing it, and ``may_wait`` asked not to
        Unpublished            UNPUBLISHED: the block before those to be sealed is not indexed
        Busy                   BUSY: the kvstore asks to be left alone for retry_after_ms
        NotPermitted           NOT_PERMITTED: no session, or a read-only one
        Internal               INTERNAL: a bug in the kvstore; the store is unchanged
      KvstoreUnreachable       no reply within the timeout, resends included
      MapError                 the arena cannot be mapped by this process
      DeviceFault              this process's CUDA context is poisoned: only a new process helps

Local and remote errors never share a class: the first is a bug here, the second an answer.
An item code of a call about one sequence is raised, too, and changed nothing (``item_codes``); in a ``step`` it is a
result in the reply, so that one sequence without space is no error of a batch.
"""

from __future__ import annotations


class QuireError(Exception):
    """Base of all errors raised by the client library."""


class LocalError(QuireError):
    """This process broke a rule of the protocol; nothing was sent."""


class LimitError(LocalError):
    """The request exceeds a limit named in the handshake."""


class KvstoreUnreachable(QuireError):
    """No reply arrived in time, although the request was resent."""


class MapError(QuireError):
    """The arena cannot be mapped by this process; the message says why."""


class DeviceFault(QuireError):
    """The CUDA context of this process is poisoned: every later CUDA call fails, only a new process helps."""


class RemoteError(QuireError):
    """The kvstore answered with an error code.

    Attributes:
        code: the error code on the wire, e.g. ``"NOT_FOUND"``, or the name of the item code, e.g. ``"NO_SPACE"``.
        detail: further fields of the error body, e.g. ``{"retry_after_ms": 20}``.
    """

    def __init__(self, code: str, message: str, detail: dict[str, object] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.detail = detail or {}


class BadRequest(RemoteError):
    """The frame, version, op or a field was not acceptable."""


class OutOfOrder(RemoteError):
    """The session's sequence numbers have a gap."""


class NumberReused(RemoteError):
    """A sequence number was used again with other bytes."""


class DeadlineExceeded(RemoteError):
    """The deadline passed before the op was executed; nothing changed."""


class StaleSession(RemoteError):
    """The session belongs to an earlier boot, or was fenced: attach again and recompute."""


class LayoutMismatch(RemoteError):
    """The engine's layout differs from the pool's; the message names the field."""


class NameTaken(RemoteError):
    """Another living process is attached under this name: choose another, or try again when it has ended."""


class NotFound(RemoteError):
    """No such sequence, publication or digest."""


class Conflict(RemoteError):
    """The request contradicts the state of the store."""


class Retry(RemoteError):
    """A publication vanished between match and allocate: match again."""


class NoSpace(RemoteError):
    """Not enough blocks; nothing changed.

    Attributes:
        missing: blocks that were lacking.
        scope: of what: ``pool``, ``limit`` or ``guarantees`` (PROTOCOL.md section 8); "" if the kvstore does not say.
        account: the tenant it holds for; "" for all.
        retry_after_ms: when a retry pays, or after freeing something; 0: never.
    """

    def __init__(self, what: str, missing: int, scope: str, account: str, retry_after_ms: int) -> None:
        whose = f"{scope} of {account}" if account else scope
        lacking = f"{missing} blocks missing ({whose})" if scope else "no block is left for it"
        detail = {"missing": missing, "scope": scope, "account": account, "retry_after_ms": retry_after_ms}
        super().__init__("NO_SPACE", f"{what}: {lacking}", detail)
        self.missing, self.scope, self.account, self.retry_after_ms = missing, scope, account, retry_after_ms


class Claimed(RemoteError):
    """Another sequence is computing what this one lacks; nothing changed. ``wait``, then allocate again.

    Attributes:
        computed: leading tokens that are there already.
        claimed: digests that the two have in common, 32 bytes each: ``wait`` for the last one. Empty: for the
            publication that the allocate named.
    """

    def __init__(self, what: str, computed: int, claimed: bytes) -> None:
        super().__init__("CLAIMED", f"{what}: another sequence is computing it, {computed} tokens are there")
        self.computed, self.claimed = computed, claimed


class Unpublished(RemoteError):
    """The block before the first one to be sealed is not in the index; nothing changed."""


class Busy(RemoteError):
    """The kvstore asks to be left alone for ``detail['retry_after_ms']``."""


class NotPermitted(RemoteError):
    """The op needs a ready session, or may not be used by this one."""


class Internal(RemoteError):
    """A bug in the kvstore; the op was not applied."""


BY_CODE: dict[str, type[RemoteError]] = {
    "BAD_FRAME": BadRequest,
    "BAD_VERSION": BadRequest,
    "UNKNOWN_OP": BadRequest,
    "BAD_FIELD": BadRequest,
    "TOO_LARGE": BadRequest,
    "UNSUPPORTED": BadRequest,
    "OUT_OF_ORDER": OutOfOrder,
    "NUMBER_REUSED": NumberReused,
    "DEADLINE": DeadlineExceeded,
    "STALE_SESSION": StaleSession,
    "LAYOUT_MISMATCH": LayoutMismatch,
    "NAME_TAKEN": NameTaken,
    "NOT_FOUND": NotFound,
    "CONFLICT": Conflict,
    "RETRY": Retry,
    "BUSY": Busy,
    "NOT_PERMITTED": NotPermitted,
    "INTERNAL": Internal,
}


def remote_error(code: str, message: str, detail: dict[str, object] | None = None) -> RemoteError:
    """The exception for an error reply; an unknown code gives a plain ``RemoteError``."""
    return BY_CODE.get(code, RemoteError)(code, message, detail)
