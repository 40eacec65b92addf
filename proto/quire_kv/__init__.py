"""The client library: attach to a kvstore, share its blocks, write keys and values into its arena.

    from quire_kv import KVClient, NoSpace, pack_u32, unpack_u32

    with KVClient(run_dir, name="mine") as client:             # attaches, maps the arena, keeps the lease
        arena = client.map()                                   # shape and element: client.layout
        chain = client.chain("acme", pack_u32(tokens))         # names of the full blocks, for this tenant alone
        try:
            table = client.allocate(1, "acme", len(tokens), chain.digests())
        except NoSpace as full:                                # nothing changed; full.retry_after_ms
            ...
        # compute tokens[table.computed:], write them into unpack_u32(table.blocks), wait until that is done
        client.fill(1, len(tokens))                            # written: the fill mark
        client.seal(1, 0, chain.digests())                     # full blocks: others of the tenant hit them now
        client.free([1])                                       # what is sealed stays as cache

``AsyncKVClient.connect`` gives the same calls, awaited; ``KVReader`` reads and administers without a session. A call
about one thing that was not done raises the error that says why, all of them ``QuireError``.

An engine says everything about a scheduler step in one message: ``StepBuilder`` collects it, ``RetireList`` holds
back what running work still names, ``client.step`` sends it, ``results`` pairs the reply. There an item that was not
done is a result: its code is ``OK`` or one of the other item codes.

On a GPU ``WeightsConnection`` and ``WeightsMapping`` give a process the one copy of a model's weights that the
kvstore keeps, or let it write that copy; PROTOCOL.md, section 19.

Needs pyzmq and msgpack, nothing else. What travels is in PROTOCOL.md. Everything public of the library is here, and
Quire's own engine uses it in this way; the modules of ``quire_proto`` behind it may change.
"""

from quire_proto import __version__
from quire_proto.client.aio import AsyncKVClient
from quire_proto.client.client import KVClient, KVReader
from quire_proto.memory.cuda_mapping import DeviceMemory
from quire_proto.messages import (
    CLAIMED,
    CONFLICT,
    NO_SPACE,
    NO_SUCH,
    OK,
    RETRY,
    UNPUBLISHED,
    Allocate,
    Allocated,
    Detached,
    DomainKey,
    Empty,
    Events,
    Extended,
    Fork,
    Forked,
    Found,
    Freed,
    Limits,
    Publication,
    Publications,
    Seal,
    Sealed,
    SessionInfo,
    Shortage,
    Stats,
    Step,
    Stepped,
    Wait,
    Waited,
)
from quire_proto.messages.handoff import Adopt, Adopted, Offer, Offered
from quire_proto.messages.pool_map import BlockHolder, BlockInfo, PoolMap
from quire_proto.messages.sharing import Groups, Member, Published
from quire_proto.messages.tenants import Tenants, TenantUsage
from quire_proto.step.publication_matcher import PublicationList
from quire_proto.step.retire import RetireList
from quire_proto.step.step_builder import Results, StepBuilder, results
from quire_proto.step.token_chain import DomainChain
from quire_proto.weights.connection import WeightsConnection
from quire_proto.weights.mapping import WeightsMapping
from quire_proto.wire.errors import (
    BadRequest,
    Busy,
    Claimed,
    Conflict,
    DeadlineExceeded,
    DeviceFault,
    Internal,
    KvstoreUnreachable,
    LayoutMismatch,
    LimitError,
    LocalError,
    MapError,
    NameTaken,
    NoSpace,
    NotFound,
    NotPermitted,
    NumberReused,
    OutOfOrder,
    QuireError,
    RemoteError,
    Retry,
    StaleSession,
    Unpublished,
)
from quire_proto.wire.layout import DTYPE_BYTES, Layout
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32

__all__ = [
    "CLAIMED",
    "CONFLICT",
    "DTYPE_BYTES",
    "NO_SPACE",
    "NO_SUCH",
    "OK",
    "RETRY",
    "UNPUBLISHED",
    "Adopt",
    "Adopted",
    "Allocate",
    "Allocated",
    "AsyncKVClient",
    "BadRequest",
    "BlockHolder",
    "BlockInfo",
    "Busy",
    "Claimed",
    "Conflict",
    "DeadlineExceeded",
    "Detached",
    "DeviceFault",
    "DeviceMemory",
    "DomainChain",
    "DomainKey",
    "Empty",
    "Events",
    "Extended",
    "Fork",
    "Forked",
    "Found",
    "Freed",
    "Groups",
    "Internal",
    "KVClient",
    "KVReader",
    "KvstoreUnreachable",
    "Layout",
    "LayoutMismatch",
    "LimitError",
    "Limits",
    "LocalError",
    "MapError",
    "Member",
    "NameTaken",
    "NoSpace",
    "NotFound",
    "NotPermitted",
    "NumberReused",
    "Offer",
    "Offered",
    "OutOfOrder",
    "PoolMap",
    "Publication",
    "PublicationList",
    "Publications",
    "Published",
    "QuireError",
    "RemoteError",
    "Results",
    "RetireList",
    "Retry",
    "Seal",
    "Sealed",
    "SessionInfo",
    "Shortage",
    "StaleSession",
    "Stats",
    "Step",
    "StepBuilder",
    "Stepped",
    "TenantUsage",
    "Tenants",
    "Unpublished",
    "Wait",
    "Waited",
    "WeightsConnection",
    "WeightsMapping",
    "__version__",
    "pack_u32",
    "results",
    "unpack_rows",
    "unpack_u32",
]
