"""Examples that the state machine found once, kept as they were made small."""

from __future__ import annotations

from tests.proofs.machine import StoreMachine


def test_what_making_room_evicts_is_claimed_too() -> None:
    """A block in the middle of what is lacked goes while room is made: the next to need it is told it is computed."""
    state = StoreMachine()
    state.everything_holds()
    state.share(domain="public", more=[], prompt=[0, 0, 0], end="unpublished", peer=0)
    state.everything_holds()
    state.launch(count=1, token=0, which=0)
    state.everything_holds()
    state.serve(begin=[0, 0, 0, 0], keep=False, more=6, tenant="b", peer=0)
    state.everything_holds()
    state.share(domain="public", more=[], prompt=[0, 0, 0, 1], end="left", peer=0)
    state.everything_holds()
    state.herd(begin=[0, 0, 0, 0], come=False, finish=False, tenant="a", peer=0, waiter=0)
    state.teardown()
