"""The demo: what it judges by, and a run without a download."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import psutil
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from examples.demo.__main__ import place
from examples.demo.chat import Answer, Call
from examples.demo.english import reads_as_english
from examples.demo.functions import TOOLS, carried_out
from examples.demo.report import Measured, Played, facts
from examples.demo.smollm2 import PROMPT
from examples.demo.terminal import Live
from quire_services.gateway.tools.format_choice import chosen_format
from tests.support.repository import ROOT

OURS = (ROOT / "examples" / "demo" / "smollm2.jinja").read_text()
THEIRS = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM, USER = {"role": "system", "content": "S"}, {"role": "user", "content": "U"}


def rendered(template: str, messages: list[dict[str, object]], tools: list[dict[str, object]] | None = None) -> str:
    texts, _ = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=True)
    return texts[0]


@pytest.mark.parametrize("messages", [[USER], [SYSTEM, USER], [SYSTEM, USER, {"role": "assistant", "content": "A"}]])
def test_the_template_is_the_models_own_where_there_are_no_functions(messages) -> None:
    """Chats without functions become the same text."""
    assert rendered(OURS, messages) == rendered(THEIRS, messages)


def test_the_template_writes_functions_in_a_format_that_is_found_out() -> None:
    """Calls are Hermes', names and parameters are in the prompt, and all of it stands before the first turn."""
    text = rendered(OURS, [SYSTEM, USER], TOOLS)
    found = chosen_format(lambda messages, tools: rendered(OURS, messages, tools), (Exception,))

    assert found is not None
    assert found.name == "hermes"
    assert "- count_letter(word, letter): How often" in text.partition("U<|im_end|>")[0]
    assert PROMPT.tools == TOOLS


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("The capital of France is Paris.", True),
        ("The answer is 3.", True),
        ("The sum of 1250 and 475 is 1725.", True),
        ("1. Read a book in a different language.\n2. Read a book that is not your favorite.", True),
        ("w135 w383 w308 w81 w483 w126", False),
        ("Die Hauptstadt von Frankreich heißt Paris.", False),
        ('<tool_response>\n{"count": 3}\n</tool_response>', False),
        ("1725", False),
        ("", False),
    ],
)
def test_english_is_told_from_noise(text, holds) -> None:
    """Sentences are, and neither another language, nor marks, nor a number alone."""
    assert reads_as_english(text) is holds


def test_calls_are_carried_out_if_their_schema_allows_them() -> None:
    """The function returns what it counts; other names and arguments are refused."""
    assert carried_out(Call("", "count_letter", '{"word": "strawberry", "letter": "r"}')) == '{"count": 3}'
    assert carried_out(Call("", "add_numbers", '{"a": 12, "b": 30}')) == '{"sum": 42}'
    with pytest.raises(KeyError):
        carried_out(Call("", "remove_files", "{}"))
    with pytest.raises(ValueError, match="Expecting"):
        carried_out(Call("", "add_numbers", '{"a": 12'))
    for wrong in ({"a": "12", "b": 30}, {"a": 1}, {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(jsonschema.ValidationError):
            carried_out(Call("", "add_numbers", json.dumps(wrong)))


def test_a_live_text_is_broken_between_words(capsys) -> None:
    """Lines stay within the width, begin behind the margin, and hold all words in order."""
    words = [f" word{number}" for number in range(60)]
    live = Live("    ")
    for piece in (*words[:30], "\n", *words[30:]):
        live(piece)
    lines = capsys.readouterr().out.splitlines()

    assert max(map(len, lines)) <= 110
    assert all(line.startswith("    word") for line in lines)
    assert " ".join(lines).split() == [word.strip() for word in words]


def answer(tenant: str, prompt: int, cached: int) -> Answer:
    return Answer(tenant, f"{tenant}-1", "engine-1", prompt, cached, 8, 0.1, "", 8, (), "stop")


STREAMED = answer("borea", 60, 40)
PLAYED = Played(
    first=answer("atlas", 50, 0),
    later=[answer("atlas", 50, 40), STREAMED, answer("cairn", 50, 40)],
    streamed=STREAMED,
    follow_ups=[answer("cairn", 70, 48)],
    own=answer("borea", 60, 56),
    foreign=answer("cairn", 60, 40),
    peak=9,
    said=[(True, "said")],
)
MEASURED = Measured(
    blocks=99,
    stats=SimpleNamespace(blocks={"held": 3, "cached": 1, "free": 95}, sessions=[]),
    published=SimpleNamespace(tokens=40, blocks=bytes(3 * 4)),
    steps={
        "engine-1": [{"prompt_tokens": 60, "slots_held": 1, "slots_filled": 1}],
        "engine-2": [{"prompt_tokens": 76, "slots_held": 1, "slots_filled": 1}],
    },
)


@pytest.mark.parametrize(
    ("played", "measured", "left", "fails"),
    [
        ({}, {}, [], None),
        ({"first": answer("atlas", 50, 10)}, {}, [], "computed once"),
        ({"later": [*PLAYED.later, answer("atlas", 50, 32)]}, {}, [], "computed once"),
        ({"later": [*PLAYED.later, answer("atlas", 50, 48)]}, {}, [], "had all"),
        ({"follow_ups": [answer("cairn", 70, 40)]}, {}, [], "finds its beginning"),
        ({"own": answer("borea", 60, 40)}, {}, [], "its tenant only"),
        ({"foreign": answer("cairn", 60, 56)}, {}, [], "its tenant only"),
        ({"said": [(False, "said")]}, {}, [], "said"),
        ({}, {"published": SimpleNamespace(tokens=40, blocks=bytes(6 * 4))}, [], "one copy"),
        ({}, {"steps": {**MEASURED.steps, "engine-2": []}}, [], "both engines"),
        ({}, {"stats": SimpleNamespace(blocks={"held": 4}, sessions=[])}, [], "only the published"),
        ({}, {}, ["process 1"], "left behind"),
    ],
)
def test_each_fact_fails_when_it_does_not_hold(played, measured, left, fails) -> None:
    """All hold of figures as they should be, and each is false of the figures that belie it."""
    judged = facts(replace(PLAYED, **played), replace(MEASURED, **measured), left)
    false = [sentence for holds, sentence in judged if not holds]

    assert bool(false) == (fails is not None)
    if fails:
        assert any(fails in sentence for sentence in false)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary files, near the root: ``tmp_path`` may be too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="q", dir="/tmp") as name:
        yield Path(name)


def test_sockets_have_a_place_where_temporary_files_lie_deep(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the root then, else where the environment says."""
    deep = temporary / ("d" * 99)
    deep.mkdir()
    for directory, found in ((temporary, str(temporary)), (deep, "/tmp")):
        monkeypatch.setattr(tempfile, "tempdir", str(directory))
        assert place() == found


@pytest.fixture
def demo(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """``make demo MODEL=tiny``, less make."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.demo", "--model=tiny"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.process
def test_the_tiny_demo_shows_what_it_says(demo) -> None:
    """It ends well, all facts hold, and the table has every agent."""
    output, _ = demo.communicate(timeout=170)

    assert demo.returncode == 0, output
    assert "FAILS" not in output
    assert output.count("  holds  ") == 8
    assert output.count(" ms\n") >= 13


@pytest.mark.slow
@pytest.mark.process
def test_an_interrupted_demo_leaves_nothing_running(demo, temporary) -> None:
    """Ctrl-C in the middle ends it with 130, its stack with it, and no file of it stays."""
    assert demo.stdout is not None
    for line in demo.stdout:
        if "ready:" in line:
            break
    started = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=60)

    assert started, "the stack was running"
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert list(temporary.glob("quire-demo-*")) == []
