"""A request waits for what can never come.

An engine's loop over a real kvstore process: what was accepted may stop fitting when an operator publishes a prompt.
It ends with an error that says so, and those beside it go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_proto.client.client import KVReader
from quire_proto.wire.u32 import pack_u32
from tests.support.engine_loop import BLOCKS, engine_on, kvstore, words
from tests.support.waits import wait_for

PINNED = 16


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A kvstore's run directory, and the model's."""
    with kvstore(tmp_path) as directories:
        yield directories


def publish(run_dir: Path, model_dir: Path) -> None:
    """Publish a prompt of ``PINNED`` blocks and have a second engine compute it."""
    with KVReader(run_dir) as reader:
        reader.publish("big", "public", pack_u32(words(PINNED * 16, 7)))

        def ready() -> bool:
            return reader.fetch_publications().publications[0].state == "ready"

        with engine_on(run_dir, model_dir, name="second"):
            wait_for(ready, "the publication is pinned", 30)


@pytest.mark.source("vllm-project/vllm#39734")
def test_a_running_request_that_outgrows_what_is_left_ends(pool: tuple[Path, Path]) -> None:
    """It computes all that fits and then ends with an error, in place of computing itself anew for ever."""
    with engine_on(*pool, prefill=False) as (_, front):
        front.ask("long", words(32), max_tokens=BLOCKS * 16 - 64)
        wait_for(lambda: len(front.tokens.get(("long", 0), [])) > 3, "it runs", 30)
        publish(*pool)

        end = front.end("long")

        assert (end.finish, end.code) == ("error", "no_room")
        assert "so many can not become free: publications pin the others" in end.message
        assert len(front.tokens["long", 0]) >= (BLOCKS - PINNED - 3) * 16
        front.ask("after", words(20), tenant="other")
        assert front.end("after").finish == "length"


@pytest.mark.source("vllm-project/vllm#35541")
def test_a_waiting_request_that_fits_no_more_ends(pool: tuple[Path, Path]) -> None:
    """It waits while another one holds what it needs; what was published meanwhile makes that vain."""
    with engine_on(*pool, prefill=False) as (_, front):
        front.ask("holder", words(12 * 16), max_tokens=150, tenant="holder")
        wait_for(lambda: front.tokens.get(("holder", 0)), "the other one runs", 30)
        front.ask("waits", words(30 * 16, 50), tenant="late")
        publish(*pool)

        end = front.end("waits")

        assert (end.finish, end.code) == ("error", "no_room")
        assert front.end("holder").finish == "length"
