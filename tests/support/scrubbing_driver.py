"""A driver whose arena also knows who wrote each slot, and whose engines scrub what they are told to scrub."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire_kvstore.sessions.session import Session
from quire_proto import messages as m
from quire_proto.wire.u32 import unpack_u32
from tests.support.driver import Branch, Driver


class ScrubbingDriver(Driver):
    """Engines that do as they are told; ``writer`` holds the tenant of each slot's content, "" for zeros."""

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.writer = np.full(self.arena.shape, "", "U1")

    def allocate(self, *arguments: Any, **others: Any) -> m.Allocated:
        """Allocate, and scrub."""
        reply = super().allocate(*arguments, **others)
        self._scrub(reply.scrub)
        return reply

    def extend(self, session: Session, number: int, tokens: int) -> m.Extended:
        """Extend, and scrub."""
        reply = super().extend(session, number, tokens)
        self._scrub(reply.scrub)
        return reply

    def write(self, session: Session, number: int, upto: int, token: int = 0) -> int:
        """Write, and remember who did."""
        branch = self.branch(session, number)
        for position in range(branch.fill, upto):
            self.writer[branch.table[position // self.size], position % self.size] = branch.tenant
        return super().write(session, number, upto, token)

    def check(self) -> None:
        """No slot of a block that a sequence may write to holds what another tenant wrote."""
        super().check()
        for session in self.store.state.sessions.all():
            for number, branch in self.branches[session.id].items():
                table = session.sequences[number].table
                own = table[self.store.state.appender[table] == session.sequences[number].uid]
                assert set(np.unique(self.writer[own])) <= {"", branch.tenant}, "another tenant's content"

    def _copy(self, branch: Branch) -> None:
        for _, dst, slots in branch.undone.values():
            self.writer[dst, :slots] = branch.tenant
        super()._copy(branch)

    def _scrub(self, blocks: bytes) -> None:
        for block in unpack_u32(blocks):
            self.arena[block] = 0
            self.writer[block] = ""
