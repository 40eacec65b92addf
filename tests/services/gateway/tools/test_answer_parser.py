"""Answers to events: each family's calls are found, whatever the pieces, and what is no call is text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.parser.answer_parser import AnswerParser
from quire_services.gateway.tools.parser.events import (
    AnswerEvent,
    ArgumentsDelta,
    ContentDelta,
    ReasoningDelta,
    ToolCallBegin,
    ToolCallEnd,
    joined,
)
from tests.services.gateway.tools.samples import CALLED, CUT, MALFORMED, TOOLS, WELL_FORMED, parsed, summary

TEXTS = [(family, text) for family, text, _ in WELL_FORMED + CUT] + MALFORMED
CALLS_ALONE = [
    (family, text)
    for family, text, expected in WELL_FORMED
    if not any(isinstance(one, str) and not one.startswith("~") for one in expected)
]
FRAGMENTS = {
    name: sorted({piece for literal in family.literals() for piece in (*literal.split(), literal[:5]) if piece})
    for name, family in FAMILIES.items()
}
BITS = [
    '{"name": ',
    '"weather"',
    ', "arguments": ',
    "{",
    "}",
    "[",
    "]",
    "weather",
    "(",
    ")",
    '"',
    "\\",
    " ",
    "\n",
    "é",
    ",",
]


@pytest.mark.parametrize(("family", "text", "expected"), WELL_FORMED)
def test_calls_reasoning_and_text_are_told_apart(family: str, text: str, expected: list[Any]) -> None:
    assert summary(parsed(family, text)) == expected


@pytest.mark.parametrize(("family", "text"), MALFORMED)
def test_what_is_no_call_comes_out_as_content(family: str, text: str) -> None:
    assert parsed(family, text) == [ContentDelta(text)]


@pytest.mark.parametrize(("family", "text"), TEXTS)
def test_single_characters_give_the_same_events(family: str, text: str) -> None:
    assert parsed(family, *text) == parsed(family, text)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_pieces_of_any_text_give_the_same_events(data: st.DataObject) -> None:
    """Texts of marks, parts of marks and parts of calls, in any order, cut anywhere."""
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    text = "".join(data.draw(st.lists(st.sampled_from([*FRAGMENTS[family], *BITS]), max_size=25)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    opened = data.draw(st.booleans()) and FAMILIES[family].reasoning is not None
    assert parsed(family, *pieces, opened=opened) == parsed(family, text, opened=opened)


def _goes_on_as(before: list[AnswerEvent], after: list[AnswerEvent]) -> bool:
    """Whether events are the beginning of others, the last of them perhaps in part."""
    if not before:
        return True
    *same, last = before
    if len(after) < len(before) or after[: len(same)] != same:
        return False
    then = after[len(same)]
    if isinstance(last, ContentDelta | ReasoningDelta | ArgumentsDelta):
        return type(then) is type(last) and then.text.startswith(last.text)
    return then == last


@pytest.mark.parametrize(("family", "text"), TEXTS)
def test_nothing_is_taken_back(family: str, text: str) -> None:
    """What has come out at any place is how the whole begins."""
    whole = parsed(family, text)
    for end in range(len(text)):
        parser = AnswerParser(FAMILIES[family], TOOLS)
        assert _goes_on_as(joined(parser.feed(text[:end])), whole), text[:end]


@pytest.mark.parametrize(("family", "text"), TEXTS)
def test_an_answer_may_end_anywhere(family: str, text: str) -> None:
    """Calls that have begun end, those that are whole are so in the whole answer, too."""
    whole = [one for one in summary(parsed(family, text)) if isinstance(one, tuple)]
    for end in range(len(text)):
        events = parsed(family, text[:end])
        begun = [event.index for event in events if isinstance(event, ToolCallBegin)]
        ended = [event.index for event in events if isinstance(event, ToolCallEnd)]
        assert begun == ended == list(range(len(begun)))
        complete = [one for one in summary(events) if isinstance(one, tuple)]
        assert complete == whole[: len(complete)]


def test_text_that_cannot_be_a_mark_does_not_wait() -> None:
    parser = AnswerParser(FAMILIES["hermes"], TOOLS)
    assert parser.feed("Hello") == [ContentDelta("Hello")]
    assert parser.feed(" <tool") == []
    assert parser.feed("box>") == [ContentDelta(" <toolbox>")]


def test_arguments_come_as_they_are_written() -> None:
    parser = AnswerParser(FAMILIES["hermes"], TOOLS)
    assert parser.feed('<tool_call>\n{"name": "weather", "arguments": {"ci') == [
        ToolCallBegin(0, "weather"),
        ArgumentsDelta(0, '{"ci'),
    ]
    assert parser.feed('ty": "Ro') == [ArgumentsDelta(0, 'ty": "Ro')]
    assert parser.feed('me"}') == [ArgumentsDelta(0, 'me"}'), ToolCallEnd(0)]


def test_a_text_argument_comes_as_it_is_written() -> None:
    """A model that writes a file as an argument streams it, though the format has no quotes."""
    parser = AnswerParser(FAMILIES["qwen3_coder"], TOOLS)
    parser.feed("<tool_call>\n<function=weather>\n<parameter=city>\n")
    assert parser.feed('a "line"\n') == [ArgumentsDelta(0, 'a \\"line\\"')]
    assert parser.feed("</param") == []
    assert parser.feed("s>") == [ArgumentsDelta(0, "\\n</params>")]


def test_a_cut_call_says_so() -> None:
    assert summary(parsed("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Ro')) == [
        ["weather", '{"city": "Ro']
    ]


@pytest.mark.parametrize(("family", "text", "expected"), CUT)
def test_what_the_end_cuts_off_behind_a_mark_is_no_content(family: str, text: str, expected: list[Any]) -> None:
    """Half a mark is of no use to a client, and calls that came before it stay whole."""
    assert summary(parsed(family, text)) == expected


@pytest.mark.parametrize(("family", "text"), CALLS_ALONE)
def test_an_answer_that_must_call_has_no_content_wherever_it_ends(family: str, text: str) -> None:
    """Where only calls may be, what is none is a piece of one."""
    for end in range(len(text)):
        parser = AnswerParser(FAMILIES[family], TOOLS, must_call=True)
        events = parser.feed(text[:end]) + parser.finish()
        assert not [one for one in events if isinstance(one, ContentDelta)], text[:end]


@pytest.mark.parametrize("text", ["Hm.\n</think>\n\nYes.", "Hm. </think>Yes.", "<think>\nHm.</think>\nYes."])
def test_reasoning_that_the_prompt_has_opened(text: str) -> None:
    assert summary(parsed("hermes", text, opened=True)) == ["~Hm.", "Yes."]
    assert FAMILIES["hermes"].opened_by("<|im_start|>assistant\n<think>\n") == FAMILIES["hermes"].reasoning
    assert FAMILIES["hermes"].opened_by("<think>\n\n</think>\n\n") is None


def test_reasoning_that_never_ends_is_reasoning() -> None:
    assert summary(parsed("hermes", "<think>\nHm, let me")) == ["~Hm, let me"]


def test_a_special_token_is_not_what_spells_it() -> None:
    """A model that quotes the token calls nothing; the token itself is found."""
    specials = ("[TOOL_CALLS]", "[ARGS]", "</s>")
    parser = AnswerParser(FAMILIES["mistral"], TOOLS, specials=specials)
    events = parser.feed("I write [TOOL_CALLS]weather[ARGS]{} ")
    for token, text in (("</s>", ""), ("[TOOL_CALLS]", "weather"), ("[ARGS]", '{"city": "Rome", "days": 2}')):
        events += parser.feed_special(token) + parser.feed(text)
    assert summary(events + parser.finish()) == ["I write [TOOL_CALLS]weather[ARGS]{}", CALLED]


def test_text_and_marks_may_be_one_string_on_their_way() -> None:
    """Joined, and cut elsewhere, as stop strings do."""
    parser = AnswerParser(FAMILIES["mistral"], TOOLS, specials=("[TOOL_CALLS]", "[ARGS]"))
    way = parser.marked("Hi. ") + parser.mark("[TOOL_CALLS]") + parser.marked("weather") + parser.mark("[ARGS]")
    way += parser.marked('{"city": "Rome", "days": 2}')
    for size in range(1, 9):
        again = AnswerParser(FAMILIES["mistral"], TOOLS, specials=("[TOOL_CALLS]", "[ARGS]"))
        pieces = [way[place : place + size] for place in range(0, len(way), size)]
        events = [event for piece in pieces for event in again.feed_marked(piece)]
        assert summary(events + again.finish()) == ["Hi.", CALLED]


def test_a_special_token_that_begins_no_call_is_spelled_out() -> None:
    parser = AnswerParser(FAMILIES["mistral"], TOOLS, specials=("[TOOL_CALLS]",))
    events = parser.feed_special("[TOOL_CALLS]") + parser.feed("no\ufdd0, no") + parser.finish()
    assert summary(events) == ["[TOOL_CALLS]no\ufffd, no"]


def test_a_call_that_does_not_close_ends_at_the_next_special_token() -> None:
    parser = AnswerParser(FAMILIES["mistral"], TOOLS, specials=("[TOOL_CALLS]", "[ARGS]"))
    events: list[AnswerEvent] = []
    for arguments in ('{"city": "Rome', '{"city": "Oslo"}'):
        events += parser.feed_special("[TOOL_CALLS]") + parser.feed("weather")
        events += parser.feed_special("[ARGS]") + parser.feed(arguments)
    found = summary(events + parser.finish())
    assert found == [["weather", '{"city": "Rome'], ("weather", {"city": "Oslo"})]


def test_without_known_tools_every_name_is_one() -> None:
    parser = AnswerParser(FAMILIES["pythonic"])
    assert summary(parser.feed("[anything(x=1)]") + parser.finish()) == [("anything", {"x": 1})]


def test_a_long_answer_takes_linear_time() -> None:
    """A hundred thousand characters, one at a time."""
    parser = AnswerParser(FAMILIES["hermes"], TOOLS)
    text = (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "' + "x" * 50_000 + '"}}\n</tool_call>' + "y" * 50_000
    )
    events = [event for character in text for event in parser.feed(character)]
    assert len(events) > 100_000 - 100
