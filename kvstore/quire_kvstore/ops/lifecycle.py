"""The life of a session: attach, ready, heartbeats, leases.

A lease that passed fences its session, because a process that was stopped for that long may go on any moment and
write where it no longer may. It is never a reason to take blocks back: only the death of the process, or its
``detach``, is. A session that holds nothing lapses without more.

If the kvstore itself stood still (a stopped machine, a debugger), every lease is extended by that gap first: no
session is judged for heartbeats that we did not read.
"""

from __future__ import annotations

from quire_kvstore.sessions.session import FENCED, READY, Peer, Session
from quire_kvstore.state import State

from . import handoff
from .free import fence, reclaim


def attach(state: State, identity: bytes, nonce: bytes, name: str, peer: Peer | None, lease_until: int) -> Session:
    """Open a session in state ``attached``; ``peer`` None makes it one that only reads."""
    session = Session(identity, nonce, name, peer, lease_until)
    state.sessions.add(session)
    state.counters.attached += 1
    return session


def ready(session: Session) -> None:
    """The process has mapped the arena."""
    session.state = READY


def heartbeat(session: Session, progress: int, now_ms: int, lease_ms: int) -> None:
    """Renew a lease."""
    session.progress = progress
    session.lease_until = max(session.lease_until, now_ms + lease_ms)


def forgive(state: State, gap_ms: int) -> None:
    """Forgive a gap in our own loop: leases, graces of those already fenced, progress of claims."""
    for session in state.sessions.all():
        session.lease_until += gap_ms
        session.fenced_at += gap_ms
    state.claims.forgive(gap_ms)
    handoff.prolong(state, gap_ms)


def judge(state: State, now_ms: int) -> list[Session]:
    """Of the sessions whose lease passed, fence those that hold something and drop the others; returns the fenced."""
    fenced = []
    for session in state.sessions.all():
        if session.state == FENCED or session.lease_until > now_ms:
            continue
        if session.sequences:
            fence(state, session, now_ms)
            fenced.append(session)
        else:
            reclaim(state, session)
    return fenced


def overdue(state: State, now_ms: int, grace_ms: int) -> list[Session]:
    """Fenced sessions that have neither died nor detached within the grace."""
    return [s for s in state.sessions.all() if s.state == FENCED and s.fenced_at + grace_ms <= now_ms]
