"""State: all data of the kvstore in one object, and the few moves that ops are made of.

One thread owns it. The ops are functions over it, a file each (``ops``). Neither they nor it read a clock or draw a
random number: the time comes in through :meth:`State.tick`, ids as arguments.
"""

from __future__ import annotations

import numpy as np

from quire_kvstore.blocks.eviction import EvictionPolicy
from quire_kvstore.blocks.ids import Ids
from quire_kvstore.blocks.pool import BlockPool
from quire_kvstore.sessions.offer import OpenOffer
from quire_kvstore.sessions.scrub import ScrubMap
from quire_kvstore.sessions.sequence import Sequence
from quire_kvstore.sessions.session import Session, Sessions
from quire_kvstore.sharing.claims import Claims
from quire_kvstore.sharing.groups import Groups
from quire_kvstore.sharing.prefix_index import PrefixIndex
from quire_kvstore.sharing.publications import PublicationList
from quire_kvstore.tenants.accounts import Accounts
from quire_kvstore.tenants.permanent import PermanentBlocks
from quire_kvstore.tenants.quotas import Quotas

from .counters import Counters

NO_APPENDER = -1
SLICE_BLOCKS = 128


class State:
    """Everything the kvstore knows.

    Attributes:
        charges: which account each block is charged to.
        appender: uid of the one sequence that may write each block in place, or ``NO_APPENDER``.
        offers: offers that are open, by id (``ops/handoff``).
        permanent: blocks that do not come back by themselves.
        slice_blocks: how many blocks an op may evict before others have a turn (``ops/slices``).
    """

    def __init__(self, num_blocks: int, block_size: int, policy: EvictionPolicy | None = None) -> None:
        self.block_size = block_size
        self.pool = BlockPool(num_blocks, policy)
        self.index = PrefixIndex()
        self.sessions = Sessions()
        self.publications = PublicationList()
        self.groups = Groups()
        self.quotas = Quotas(num_blocks)
        self.charges = self.pool.charges
        self.accounts = Accounts(self.charges, self.quotas)
        self.scrub_map = ScrubMap(num_blocks)
        self.counters = Counters()
        self.claims = Claims()
        self.permanent = PermanentBlocks()
        self.appender = np.full(num_blocks, NO_APPENDER, np.int64)
        self.offers: dict[bytes, OpenOffer] = {}
        self.slice_blocks = SLICE_BLOCKS
        self._next_uid = 0

    def tick(self, now_ms: int) -> None:
        """What time the next ops happen at: eviction asks, offers expire, claims pass on, waits end."""
        self.pool.policy.now = now_ms / 1000
        if self.offers:
            for offer in [offer for offer in self.offers.values() if offer.until <= now_ms]:
                self.close_offer(offer)
        self.claims.now_ms = now_ms
        self.claims.judge()

    def close_offer(self, offer: OpenOffer) -> Sequence:
        """End an offer, whatever its end; its sequence is free to be used again."""
        del self.offers[offer.id]
        sequence = offer.source.sequences[offer.number]
        sequence.offer = b""
        return sequence

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold ``tokens`` tokens."""
        return -(-tokens // self.block_size)

    def new_sequence(self, account: int, table: Ids) -> Sequence:
        """A sequence under a new uid."""
        self._next_uid += 1
        self.accounts[account].sequences += 1
        return Sequence(self._next_uid, account, table)

    def in_use(self, session: Session, number: int) -> bool:
        """Whether a number names a sequence, or one that waits or inherited a claim.

        Only its own allocate may give such a one a table.
        """
        return number in session.sequences or self.claims.knows((session.id, number))

    def anchor(self, block: int, publication: str) -> None:
        """Make a publication the parent of an indexed block."""
        self.index.anchor(block, publication)
        self.pool.policy.anchored(block)

    def grant(self, count: int, sequence: Sequence) -> Ids:
        """``count`` free blocks that ``sequence`` may write once it has scrubbed what is in its ``scrubs``."""
        blocks = self.pool.allocate(count, sequence.account)
        self.appender[blocks] = sequence.uid
        self.scrub_map.granted(blocks, sequence)
        return blocks
