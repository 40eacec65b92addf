"""Permanent blocks: those that do not come back by themselves, which decides what can ever be free beside them.

There are two kinds: what ready publications pin, until an operator unpublishes, and what a fenced session holds whose
process lives on and may not be killed. Whatever else is held belongs to sequences that end. So a request that does not
fit beside them, and beside what others are guaranteed, would wait for ever: it is refused for good, each time it asks,
because publications, quarantine and quotas change while it waits.

It is asked only where there is a shortage. The ids are kept until publications or such sessions change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quire_kvstore.blocks.ids import NO_BLOCKS, Ids
from quire_kvstore.sessions.session import Sessions
from quire_kvstore.sharing.publications import PublicationList


@dataclass(slots=True)
class PermanentBlocks:
    """The permanent blocks, as of the last look.

    Attributes:
        blocks: their ids, rising.
        quarantined: how many of them are pinned by no publication.
    """

    blocks: Ids = field(default_factory=lambda: NO_BLOCKS)
    quarantined: int = 0
    _key: object = None

    def look(self, publications: PublicationList, sessions: Sessions) -> None:
        """See which blocks are permanent now."""
        tables = [published.table for published in publications.all() if published.table is not None]
        stuck = [session for session in sessions.all() if session.stays]
        key = (publications.generation, len(tables), *(session.id for session in stuck))
        if key == self._key:
            return
        held = [s for session in stuck for s in session.sequences.values()]
        pinned = np.unique(np.concatenate([NO_BLOCKS, *tables]))
        others = [ids for s in held for ids in (s.held, s.copy_ids(), s.pin_ids())]
        self.blocks = np.unique(np.concatenate([pinned, *others]))
        self._key, self.quarantined = key, len(self.blocks) - len(pinned)

    def besides(self, ids: Ids) -> int:
        """How many of ``ids`` are not permanent."""
        if not len(self.blocks):
            return len(ids)
        places = np.minimum(np.searchsorted(self.blocks, ids), len(self.blocks) - 1)
        return int(np.count_nonzero(self.blocks[places] != ids))
