"""The named calls of the blocking client: one method an op, with the fields of its body as parameters.

Every method of ``ReadCalls`` and ``SessionCalls`` sends one request through ``call`` and returns its reply. What is
returned was done: an item code other than OK is raised as the error that says it (``item_codes``). Only ``step``, with
its many items, returns their codes as results.

``aio_calls.py`` is this file for asyncio, written by ``scripts/write_aio_calls.py``; a test compares them, and both
with the op table. Not here is what is more than a request: ``wait``, ``detach``, ``chain``, ``match`` (``client``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from quire_proto import messages as m
from quire_proto import op_table as ops
from quire_proto.messages import handoff as h
from quire_proto.messages import pool_map as p
from quire_proto.messages import sharing as a
from quire_proto.messages import tenants as t
from quire_proto.wire.u32 import pack_u32

from .item_codes import done, each_done

_R = TypeVar("_R")


class ReadCalls:
    """Calls that need no session: reading, and administration."""

    def call(self, op: ops.Op[_R], body: object) -> _R:
        """Send one request and return its reply, item codes as they are; raises a ``QuireError``."""
        raise NotImplementedError

    def lookup(self, publication: str = "", digests: bytes = b"") -> m.Found:
        """Which physical blocks hold a publication, or the longest sealed prefix of a chain of ``digests``?

        Raises NotFound for an unknown publication.
        """
        return self.call(ops.LOOKUP, m.Lookup(publication, digests))

    def stats(self, brief: bool = False) -> m.Stats:
        """The kvstore's own counters; ``brief``: without slots and without the tokens of publications."""
        return self.call(ops.STATS, m.AskStats(brief))

    def pool_map(self, boot: bytes = b"", version: int = 0, accounts: int = 0) -> p.PoolMap:
        """Every block as a cell of four bytes, or those that changed since ``version`` of ``boot``.

        ``accounts``: how many names of accounts are known already.
        """
        return self.call(ops.POOL_MAP, p.AskPoolMap(boot, version, accounts))

    def block(self, block: int) -> p.BlockInfo:
        """What holds a block. Raises BadRequest for a number that no block has."""
        return self.call(ops.BLOCK, p.AskBlock(block))

    def tenants(self) -> t.Tenants:
        """What each tenant has, in blocks, and its quota."""
        return self.call(ops.TENANTS, m.Empty())

    def quota(self, tenant: str, limit: int = 0, guarantee: int = 0, weight: int = 100) -> t.TenantUsage:
        """Declare the whole quota of a tenant, in blocks; what is left out takes its default.

        Raises Conflict with the reason if it cannot be promised.
        """
        return self.call(ops.QUOTA, t.SetQuota(tenant, limit, guarantee, weight))

    def publish(self, id: str, domain: str, tokens: bytes, tenant: str = "") -> a.Published:
        """Put a prompt (``tokens``, packed) into a share domain: ``public`` or a group.

        ``tenant``: on whose behalf, a member of that group's; "" is the operator. Raises Conflict or NotPermitted.
        """
        return self.call(ops.PUBLISH, a.Publish(id, domain, tokens, tenant))

    def unpublish(self, id: str, tenant: str = "") -> m.Empty:
        """Stop new matches of a publication; sequences that share its blocks keep them. Raises NotFound."""
        return self.call(ops.UNPUBLISH, a.Unpublish(id, tenant))

    def groups(self) -> a.Groups:
        """Every member of every group."""
        return self.call(ops.GROUPS, m.Empty())

    def join(self, tenant: str, group: str) -> a.Groups:
        """Make a tenant a member of a group, which need not exist before."""
        return self.call(ops.JOIN, a.Join(tenant, group))

    def leave(self, tenant: str, group: str) -> a.Groups:
        """End a membership. Raises Conflict if the configuration declares it."""
        return self.call(ops.LEAVE, a.Leave(tenant, group))

    def events(self) -> m.Events:
        """Where the event stream is. Raises BadRequest (UNSUPPORTED) if the kvstore publishes none."""
        return self.call(ops.EVENTS, m.Empty())

    def fetch_publications(self) -> m.Publications:
        """The whole publication list, as the kvstore has it now."""
        return self.call(ops.PUBLICATIONS, m.Empty())


class SessionCalls(ReadCalls):
    """Calls of a ready session, in the order of a sequence's life: ``allocate``, write, ``fill``, ``seal``, ``free``.

    Sequences are u32 numbers that the client chooses, unique among its live ones. Packed fields hold little-endian u32
    (``pack_u32``, ``unpack_u32``, ``unpack_rows``). Lengths are in tokens, tables in blocks of ``block_size`` tokens.
    """

    def allocate(
        self,
        sequence: int,
        tenant: str,
        tokens: int,
        digests: bytes = b"",
        publication: str = "",
        publication_generation: int = 0,
        reserve: int = 0,
        priority: int = 0,
        may_wait: int = 0,
        list_generation: int = 0,
        trace: str = "",
    ) -> m.Allocated:
        """A block table for a new sequence of ``tokens`` known tokens, all or nothing.

        Before the first write: zero the blocks of ``scrub``, then do the ``copies``, rows (copy id, src, dst, slots).
        Then compute and write the tokens from ``computed`` on, and ``fill``.

        Args:
            sequence: its number from now on.
            tenant: what the blocks are charged to.
            tokens: known tokens, at least 1.
            digests: the tenant's chain over all full blocks of these tokens, 32 bytes each (``chain(...).digests()``);
                without it nothing is hit.
            publication: the publication that the tokens begin with (``match``); "" for none.
            publication_generation: its generation.
            reserve: capacity wanted, in tokens; 0 for ``tokens``.
            priority: the lower number goes first among those that wait.
            may_wait: 1: raise Claimed rather than compute what another sequence is computing.
            list_generation: that of the list in which a publication was looked for; 0: in none.
            trace: the traceparent of the request that it is for, if that is traced.

        Returns:
            ``computed`` tokens that need not be computed, always fewer than ``tokens``; ``blocks``, the whole table,
            packed.

        Raises:
            NoSpace: not enough blocks; it says what is missing and when a retry pays.
            Claimed: another sequence computes the rest: ``wait``, then allocate again. Only with ``may_wait``.
            Retry: the publication, or the list, is not the present one: ``refresh_publications``, match again.
            Conflict: the number is in use, or ``digests`` and ``tokens`` do not belong together.
        """
        body = m.Allocate(
            sequence,
            tenant,
            tokens,
            digests,
            publication,
            publication_generation,
            reserve,
            priority,
            may_wait,
            list_generation,
            trace,
        )
        return done(ops.ALLOCATE, self.call(ops.ALLOCATE, body))

    def extend(self, sequence: int, tokens: int) -> m.Extended:
        """Capacity for ``tokens`` tokens in all, and write access to every slot from the fill mark on.

        Returns ``blocks``, packed, which replace the table from index ``first`` on, and as ``allocate`` ``scrub`` and
        ``copies`` to be done before the first write. Raises NoSpace or NotFound; nothing changed then.
        """
        return done(ops.EXTEND, self.call(ops.EXTEND, m.Extend(sequence, tokens)))

    def copies_done(self, copies: Iterable[int]) -> m.Stepped:
        """The copies with these ids (``copies`` of a reply) have completed: their source blocks may go.

        A ``step`` of this alone: look at ``priorities`` of what it returns if you use ``may_wait``.
        Raises NotFound, naming the ids that are not outstanding; the others count.
        """
        named = pack_u32(copies)
        reply = self.step(m.Step(copies_done=named))
        each_done("copies_done", named, reply.copies_done)
        return reply

    def fill(self, sequence: int, tokens: int) -> m.Stepped:
        """The first ``tokens`` tokens of ``sequence`` are written: raise its fill mark to that.

        Call it after the work that wrote keys and values to the arena has completed, and before ``seal`` and ``fork``:
        both reach up to the fill mark only. A ``step`` of this alone: look at ``priorities`` of what it returns if you
        use ``may_wait``.

        Args:
            sequence: a live sequence.
            tokens: the mark, counted from token 0; at least the present one, at most the capacity.

        Raises:
            NotFound: no such sequence.
            Conflict: the mark falls, or is beyond the capacity.
        """
        reply = self.step(m.Step(fills=pack_u32((sequence, tokens))))
        each_done("fill", pack_u32((sequence,)), reply.fills)
        return reply

    def seal(self, sequence: int, first: int, digests: bytes, tokens: bytes = b"") -> m.Sealed:
        """Publish full, completely written blocks in the prefix index: from now on others of the tenant hit them.

        A sealed block is never written again. All of them are sealed, or none; seal a long table 512 blocks a call.

        Args:
            sequence: a live sequence whose fill mark (``fill``) is at or behind the end of these blocks.
            first: table index of the first of them; the blocks before it are sealed.
            digests: 32 bytes a block, of the tenant's chain: ``chain.digests(first, end)``.
            tokens: of all these blocks, packed, if ``wants_tokens``: ``chain.packed(first, end)``.

        Returns:
            ``sealed`` blocks; ``canonical``, rows (table index, block): another block has that digest already and is
            pinned until this sequence swaps to it (``swap``) or is freed.

        Raises:
            NotFound: no such sequence.
            Conflict: past the fill mark, under another digest than before, or not the tokens of all blocks.
            Unpublished: the block before the first is not indexed: seal from there.
            NoSpace: a canonical block would come back from quarantine, and its tenant is at its limit.
        """
        return done(ops.SEAL, self.call(ops.SEAL, m.Seal(sequence, first, digests, tokens)))

    def swap(self, sequence: int, index: int, block: int) -> m.Stepped:
        """Put the canonical ``block`` of a ``seal`` into the table at ``index``; the block before it is given up.

        Only when no work names the old block any more. Naming the present block declines, and ends the pin. A ``step``
        of this alone. Raises NotFound, or Conflict if it is not the canonical block of that index.
        """
        reply = self.step(m.Step(swaps=pack_u32((sequence, index, block))))
        each_done("swap", pack_u32((sequence,)), reply.swaps)
        return reply

    def fork(self, parent: int, children: Iterable[int], tokens: int) -> m.Forked:
        """``children``, new sequences, share the first ``tokens`` tokens of ``parent``, the unfull block included.

        Their tables equal the parent's up to there. A child may write once ``extend`` has granted it. Raises NotFound,
        or Conflict: a child is in use or named twice, or ``tokens`` is past the parent's fill mark.
        """
        return done(ops.FORK, self.call(ops.FORK, m.Fork(parent, pack_u32(children), tokens)))

    def free(self, sequences: Iterable[int]) -> m.Freed:
        """Give up sequences; what they sealed stays as cache. Only when no work names their blocks any more.

        Raises NotFound, naming the sequences that are not there; the others are freed all the same.
        """
        named = pack_u32(sequences)
        reply = self.call(ops.FREE, m.Free(named))
        each_done("free", named, reply.codes)
        return reply

    def step(self, message: m.Step) -> m.Stepped:
        """Say all of a scheduler step in one message (``StepBuilder``), applied section by section.

        Item codes are results here: nothing is raised for an item, and each one's code is in the reply, OK or not. Pair
        them with ``results``. NO_SPACE for the next tokens is in ``shortages``.
        """
        return self.call(ops.STEP, message)

    def offer(self, sequence: int, target: bytes, expires_ms: int, trace: str = "") -> h.Offered:
        """Hand a quiesced sequence to another ready session; it stays ours, frozen, until adopted.

        ``target`` is that session's ``session_id``, ``expires_ms`` the time until it unfreezes, ``trace`` as in
        ``allocate``. Raises NotFound or Conflict.
        """
        return self.call(ops.OFFER, h.Offer(sequence, target, expires_ms, trace))

    def adopt(self, offer: bytes, sequence: int, trace: str = "") -> h.Adopted:
        """Take an offered sequence over under an own number; ``trace`` as in ``allocate``. Raises NotFound or
        Conflict."""
        return self.call(ops.ADOPT, h.Adopt(offer, sequence, trace))

    def domain(self, tenant: str, group: str = "") -> m.DomainKey:
        """The digest key of a tenant's own domain, or of a ``group`` it belongs to; ``chain`` asks for it by itself.

        Raises NotPermitted for a group of others.
        """
        return self.call(ops.DOMAIN, m.Domain(tenant, group))
