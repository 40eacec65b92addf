"""What is true of all arenas of weights at any time (``arenas``), as assertions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .record import WeightsArena, WeightsUser


def check_weights(
    by_key: Mapping[bytes, WeightsArena],
    abandoned: Sequence[WeightsArena],
    waiting: Mapping[bytes, Sequence[WeightsUser]],
    of_peer: Mapping[WeightsUser, WeightsArena | bytes],
) -> None:
    """Assert it of arenas by their keys, those that were abandoned, queues of processes, and what each process has."""
    everything = [*by_key.values(), *abandoned]
    for arena in everything:
        assert not (arena.sealed and arena.writer is not None), "sealed memory has no writer"
        assert arena.sealed or arena.abandoned or arena.writer in arena.users, "what is not sealed has a writer"
        assert arena.sealed or len(arena.users) <= 1, "only its writer was given what is not sealed"
        assert not arena.sealed or (arena.memory is not None and arena.manifest.size == arena.size)
        for user in arena.users:
            assert of_peer[user] is arena
    for arena in abandoned:
        assert arena.users, "nothing maps it: its memory is kept for no process"
        assert arena.memory is not None, "without memory nothing is mapped"
    for key, waiters in waiting.items():
        assert waiters, "a queue is never empty"
        assert not by_key[key].sealed, "nothing waits for what is sealed"
        assert all(of_peer[waiter] == key for waiter in waiters)
    held = {id(arena) for arena in everything}
    assert all(isinstance(one, bytes) or id(one) in held for one in of_peer.values())
