"""Answers survive their engines in a whole stack: kill -9 in mid-sentence, and the client reads the same bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stack import Stack
from tests.support.survival import (
    CALLS,
    KINDS,
    End,
    ask_to_end,
    hang,
    hang_briefly,
    hang_until_fenced,
    kill,
    kill_kvstore,
    same,
    settled,
    stream,
    surviving_stack,
    with_stop,
)

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]
OFTEN = ("json_schema",)  # the others take minutes more
SLOW = pytest.mark.slow


@pytest.fixture(scope="module", params=["full", pytest.param("window", marks=SLOW)])
def stack(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    with surviving_stack(tmp_path_factory.mktemp(f"survival-{request.param}"), request.param) as it:
        yield it


@pytest.fixture(scope="module")
def puppet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with surviving_stack(tmp_path_factory.mktemp("survival-puppet"), "puppet") as it:
        yield it


@pytest.mark.parametrize("kind", [kind if kind in OFTEN else pytest.param(kind, marks=SLOW) for kind in KINDS])
def test_a_stream_is_the_same_whichever_engine_is_killed(stack: Stack, kind: str) -> None:
    """Two kills of whichever engine works on it: text, usage and end are those of a stream that nothing disturbed."""
    asked = with_stop(stack, KINDS[kind]) if kind == "stop string" else KINDS[kind]
    settled(stack, 2)
    salts = [{"cache_salt": f"{name} {kind}"} if kind != "published" else {} for name in ("whole", "again")]
    if kind == "published":
        stream(stack, asked)  # then what it has in common with others is cached
    whole = stream(stack, asked | salts[0])
    again = stream(stack, asked | salts[1], {7: kill, 21: kill})
    assert same(again, whole)
    settled(stack, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CALLS)
def test_a_call_is_the_same_whichever_engine_is_killed(puppet: Stack, kind: str) -> None:
    """Calls of functions, in text that a parser takes apart."""
    settled(puppet, 2)
    whole = stream(puppet, CALLS[kind] | {"cache_salt": "whole" + kind})
    assert same(stream(puppet, CALLS[kind] | {"cache_salt": "again" + kind}, {5: kill}), whole)


@pytest.mark.parametrize(
    "end",
    [hang_until_fenced, *(pytest.param(end, marks=SLOW) for end in (hang, hang_briefly, ask_to_end, kill_kvstore))],
)
def test_a_stream_is_the_same_however_its_engine_ends(stack: Stack, end: End) -> None:
    """By a hang, for good or until its lease is over or for a moment, in order, or by the end of the kvstore under all
    engines: the same bytes."""
    settled(stack, 2)
    asked, name = KINDS["n=4"], end.__name__
    whole = stream(stack, asked | {"cache_salt": "whole" + name})
    assert same(stream(stack, asked | {"cache_salt": "again" + name}, {21: end}), whole)
    settled(stack, 1)
