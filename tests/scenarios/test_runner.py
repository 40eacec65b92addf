"""The runner itself: it sees a wrong expectation, a word it does not know, a broken invariant and a missing feature."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire_kvstore.server.handlers import SEQUENCE_OPS
from quire_kvstore.sharing.claims import Claims
from quire_kvstore.state import State
from quire_proto import messages as m
from tests.proofs.planted import BUGS, Patch
from tests.proofs.planted_claims import CLAIM_BUGS
from tests.proofs.planted_quotas import QUOTA_BUGS
from tests.proofs.planted_sharing import SHARING_BUGS
from tests.proofs.planted_windows import WINDOW_BUGS
from tests.scenarios.runner import play
from tests.scenarios.test_scenarios import FILES, HERE, difference
from tests.scenarios.words import ScenarioError, tokens

BEGIN = "# A promise.\npool blocks=8 block_size=4\nattach e1 e2\n"
HOLDS = BEGIN + "allocate e1/1 tenant=a tokens=9 -> OK computed=0 blocks=0-2\nstats free -> free=5\n"


def promise(name: str, tmp_path: Path) -> bool:
    """Whether a scenario of this folder holds."""
    text = (HERE / name).read_text()
    try:
        return play(text, tmp_path) == text
    except ScenarioError:
        return False


def test_a_wrong_expectation_is_shown_with_its_line(tmp_path: Path) -> None:
    """Side by side, and only the line that differs."""
    came_out = play(HOLDS, tmp_path)
    written = came_out.replace("free=5", "free=6")

    assert difference(Path("a.txt"), written, came_out).splitlines() == [
        "a.txt:5",
        "  says      stats free                      -> free=6",
        "  came out  stats free                      -> free=5",
    ]


@pytest.mark.parametrize(
    ("is_so", "written"),
    [
        ("OK computed=0 blocks=0-2", "OK blocks=0-2"),
        ("OK computed=0 blocks=0-2", "OK computed=0 blocks=0-2 scrub=0"),
        ("OK computed=0 blocks=0-2", "OK computed=0 blocks=0-2,3"),
        (" -> free=5", ""),
    ],
)
def test_expectations_are_compared_in_whole(tmp_path: Path, is_so: str, written: str) -> None:
    """A field too few, one too many, another value, and nothing at all."""
    came_out = play(HOLDS, tmp_path)

    assert is_so in came_out
    assert play(came_out.replace(is_so, written), tmp_path / "again") == came_out != came_out.replace(is_so, written)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("allot e1/1 tenant=a tokens=9", "what is 'allot'"),
        ("allot", "what is 'allot'"),
        ("allocate e1/1 tenant=a tokens=9 quickly", "what is 'quickly'"),
        ("allocate e1/1 tenant=a tokens=9 color=red", "what is 'color='"),
        ("allocate e1/1 tenant=a tokens=9 tenant=b", "an option stands twice"),
        ("allocate e1/1 tenant=a", "tokens= is missing"),
        ("allocate e1/1 tenant=a tokens=nine", "tokens are written"),
        ("allocate e1/x tenant=a tokens=9", "a number, not 'x'"),
        ("allocate e3/1 tenant=a tokens=9", "'e3' is not attached"),
        ("extend e1/1 tokens=-1", "a number, not '-1'"),
        ("write e1/1 4", "e1/1 has no table"),
        ("after 5", "a time is written 500ms or 5s"),
        ("after 5s and more", "what is 'and'"),
        ("stats", "a counter is missing"),
        ("stats dragons", "no number 'dragons'"),
        ("pool blocks=8 block_size=4", "there is one pool"),
        ("\n  free e1/1", "an indented line is an item of a step"),
        ("detach e1\n  free e1/1", "an indented line is an item of a step"),
        ("step e1\n  free e2/1", "'e2/1' is no sequence of e1"),
        ("detach e1 -> ", "nothing stands behind the arrow"),
    ],
)
def test_what_is_not_of_the_language_is_an_error_with_its_line(tmp_path: Path, line: str, complaint: str) -> None:
    """Nothing is skipped: unknown words, words too many, words too few."""
    with pytest.raises(ScenarioError, match=complaint) as caught:
        play(BEGIN + line + "\n", tmp_path)

    assert str(caught.value).startswith("5: " if line.startswith("\n") else "4: ")


def test_a_scenario_says_what_it_promises(tmp_path: Path) -> None:
    """Its first line does."""
    with pytest.raises(ScenarioError, match="begins with a comment"):
        play("pool blocks=8 block_size=4\n", tmp_path)
    with pytest.raises(ScenarioError, match="2: a scenario begins with its pool"):
        play("# A promise.\nstats free\n", tmp_path)


def test_texts_share_what_they_begin_with() -> None:
    """A number is the one text that all share; a letter is another from there on."""
    assert tokens("20")[:16] == tokens("16")
    assert tokens("16+4x")[:16] == tokens("16")
    assert tokens("16+4x")[16:] == tokens("20x")[16:]
    assert not set(tokens("20")) & set(tokens("20x"))


def test_an_invariant_that_breaks_is_told_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the line says: a block that is given out and stays free."""
    monkeypatch.setattr(State, "grant", lambda state, count, _: state.pool.allocate(count, 0))

    with pytest.raises(ScenarioError, match=r"^4: "):
        play(HOLDS, tmp_path)


def test_wrong_content_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hit for another tenant's prompt gives blocks with other content below the fill mark: planted in the lookup."""
    text = BEGIN + (
        "allocate e1/1 tenant=a tokens=8 -> OK\nwrite e1/1 8\nseal e1/1 -> OK\nallocate e2/1 tenant=b tokens=8x -> OK\n"
    )
    play(text, tmp_path)
    stolen: list[bytes] = []
    real = SEQUENCE_OPS["allocate"]

    def thief(state: State, session: object, item: m.Allocate) -> object:
        stolen.append(item.digests)
        return real(state, session, m.Allocate(item.sequence, item.tenant, item.tokens, stolen[0]))

    monkeypatch.setitem(SEQUENCE_OPS, "allocate", thief)
    with pytest.raises(ScenarioError, match="7: e2/1: wrong content at token 0"):
        play(text, tmp_path / "again")


def _no_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEQUENCE_OPS, "seal", lambda *_: m.Sealed(m.OK))


def _no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Claims, "acquire", lambda *_: None)


@pytest.mark.parametrize("switch_off", [_no_seal, _no_claim])
def test_without_a_feature_its_scenarios_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch_off: object
) -> None:
    """Nothing is indexed, or no sequence claims what it computes: the promise about both does not hold."""
    assert promise("claims/second_waits_for_first.txt", tmp_path / "on")
    switch_off(monkeypatch)  # type: ignore[operator]
    assert not promise("claims/second_waits_for_first.txt", tmp_path / "off")


# What no client of the wire can see: the engine here is ours, and a prompt beyond the budget is refused before.
OUT_OF_SIGHT = ("last_token_not_hashed", "free_at_launch", "pin_budget_not_asked")


@pytest.mark.slow
@pytest.mark.parametrize(
    "bug", [*BUGS, *CLAIM_BUGS, *SHARING_BUGS, *QUOTA_BUGS, *WINDOW_BUGS], ids=lambda bug: bug.__name__
)
def test_a_bug_in_the_kvstore_breaks_a_promise(bug: Patch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is planted to see whether the proofs find it, some scenario shows it too."""
    bug(monkeypatch)
    names = (str(path.relative_to(HERE)) for path in FILES)

    assert (bug.__name__ in OUT_OF_SIGHT) is all(promise(name, tmp_path / name) for name in names)


def test_every_scenario_is_run_and_can_be_read() -> None:
    """None stands outside a concept's folder, where nothing would run it; each fits on a screen."""
    assert set(HERE.rglob("*.txt")) == set(FILES)
    for path in FILES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 28, path
        assert max(map(len, lines)) <= 120, path
