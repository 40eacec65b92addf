"""Stop strings: the cut itself, and through the whole gateway."""

from __future__ import annotations

import itertools
import random
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from quire_services.gateway.text.stop_strings import StopStrings
from tests.support.peer_engine import PeerEngine
from tests.support.waits import wait_for


def run(stops: list[str], pieces: list[str], kept: bool = False) -> str:
    """All text released for ``pieces``."""
    cutter = StopStrings(stops, kept)
    out = ""
    for piece in pieces:
        out += cutter.push(piece)
        if cutter.hit:
            return out
    return out + cutter.flush()


def test_the_cut_does_not_depend_on_the_pieces() -> None:
    """Whatever way a text falls into pieces, what comes out is the text before the first stop string."""
    chance = random.Random(5)
    for _ in range(500):
        text = "".join(chance.choices("aab", k=chance.randint(0, 12)))
        stops = ["".join(chance.choices("aab", k=chance.randint(1, 4))) for _ in range(chance.randint(1, 3))]
        places = [text.find(stop) for stop in stops if stop in text]
        marks = sorted(chance.choices(range(len(text) + 1), k=4))
        pieces = [text[a:b] for a, b in itertools.pairwise([0, *marks, len(text)])]
        found = run(stops, pieces)
        # A stop string that completes earlier in the stream wins over one that begins earlier but completes later.
        assert text.startswith(found)
        assert not any(stop in found for stop in stops)
        assert len(found) >= min(places, default=len(text))
        if not places:
            assert found == text
    assert run(["bb"], ["aab", "a", "b", "ba"]) == "aaba"


def test_the_stop_string_may_be_kept() -> None:
    """Whatever way the text falls into pieces, what comes out then is the same text with that string behind it."""
    chance = random.Random(6)
    for _ in range(500):
        text = "".join(chance.choices("aab", k=chance.randint(0, 12)))
        stops = ["".join(chance.choices("aab", k=chance.randint(1, 4))) for _ in range(chance.randint(1, 3))]
        marks = sorted(chance.choices(range(len(text) + 1), k=4))
        pieces = [text[a:b] for a, b in itertools.pairwise([0, *marks, len(text)])]
        cut, kept = run(stops, pieces), run(stops, pieces, kept=True)
        assert text.startswith(kept)
        assert kept.removeprefix(cut) in (stops if any(stop in text for stop in stops) else [""])
    assert run(["ab", "abb"], ["xabb"], kept=True) == "xab", "the one that is complete first"


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    """Text is released as soon as it cannot begin a stop string any more."""
    cutter = StopStrings(["END", "\n\n"])

    assert cutter.push("a") == "a"
    assert cutter.push("bE") == "b"
    assert cutter.push("Nx") == "ENx"
    assert cutter.push("\n") == ""
    assert cutter.flush() == "\n"


def test_the_first_one_in_the_text_is_told() -> None:
    """Whichever of them it is, and none before there is one."""
    cutter = StopStrings(["END", "NOW", "D"])
    cutter.push("a NEN")
    assert cutter.found is None
    cutter.push("D NOW")
    assert cutter.found == "END"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_over_several_tokens_ends_one_choice(
    client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer, stream: bool
) -> None:
    """The text ends before it, the reason is stop, the engine is told to stop that continuation."""
    text = "zebra quiz 🙂 over"
    ids = tokenizer.encode(text).ids
    arguments = {"model": "tiny", "prompt": ids, "max_tokens": 400, "stop": ["iz 🙂", "never"]}
    if stream:
        chunks = list(client.completions.create(**arguments, stream=True))
        found = "".join(chunk.choices[0].text for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        answer = client.completions.create(**arguments)
        found, reason = answer.choices[0].text, answer.choices[0].finish_reason
        assert answer.usage.completion_tokens == len(tokenizer.encode("zebra quiz 🙂").ids)

    assert (found, reason) == ("zebra qu", "stop")
    wait_for(lambda: len(engine.aborts) == 1, "the abort")
    assert (engine.aborts[0].index, engine.aborts[0].every) == (0, False)


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_string_is_part_of_the_answer_if_asked_for(
    client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer, stream: bool
) -> None:
    """``include_stop_str_in_output``: the text ends behind it; so it does behind a stop token that has a text."""
    ids = tokenizer.encode("zebra quiz 🙂 over").ids

    def text(**how: Any) -> str:
        extra = {"include_stop_str_in_output": True, **how}
        arguments: Any = {"model": "tiny", "prompt": ids, "max_tokens": 30, "extra_body": extra}
        if not stream:
            return client.completions.create(**arguments).choices[0].text
        return "".join(chunk.choices[0].text for chunk in client.completions.create(**arguments, stream=True))

    assert text(stop=["iz 🙂", "never"]) == "zebra quiz 🙂"
    assert text(stop_token_ids=ids[:1]) == tokenizer.decode(ids[:1])
    assert text(stop_token_ids=ids[:1], include_stop_str_in_output=False) == ""


def test_a_choice_that_stops_leaves_the_others_alone(client: openai.OpenAI, engine: PeerEngine) -> None:
    """Only the continuation with the stop string ends early; its siblings run to their own end."""
    prompt = list(range(5, 45))  # ids of single characters "!", '"', "#", ...
    answer = client.completions.create(model="tiny", prompt=prompt, n=2, max_tokens=30, stop="!")

    first, second = answer.choices
    assert (first.text, first.finish_reason) == ("", "stop")
    assert (len(second.text), second.finish_reason) == (30, "length")
    assert answer.usage.completion_tokens == 31


def test_min_tokens_comes_before_stop_strings(client: openai.OpenAI, engine: PeerEngine) -> None:
    """A stop string within the first min_tokens tokens does not count."""
    answer = client.completions.create(
        model="tiny", prompt=[5, 6, 7], max_tokens=10, stop='"', extra_body={"min_tokens": 2}
    )

    assert answer.choices[0].text == '!"#!'
    assert answer.choices[0].finish_reason == "stop"
