"""A stack's engines compute with one copy of the weights, and so does the one that comes after a killed one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from tests.support.doctor import tell
from tests.support.host_library import need_host_library
from tests.support.reference import Reference
from tests.support.stack import running_stack
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
PROMPT, VOCAB = list(range(20, 60)), 12_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 11 million weights: large enough to be shared."""
    return make_model(tmp_path_factory.mktemp("model"), layers=2, hidden=384, heads=4, kv_heads=2, vocab=VOCAB)


def mapped(pid: int) -> list[tuple[str, str]]:
    """Rights and path of each mapping of an entry."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [(words[1], words[5]) for words in lines if words[-1].endswith(".weights")]


def test_engines_map_one_copy(model: Path, tmp_path: Path) -> None:
    """Read-only, the first engine and its successor too; answers are transformers' own."""
    need_host_library()
    place, reference = tmp_path / "weights", Reference(model)
    ((prompt, expected),) = reference.prompts((40,), 0, 24, VOCAB).items()
    with running_stack(tmp_path, model, "--dtype=float32", f"--weights-dir={place}") as stack:
        sessions = stack.ready_sessions()
        (entry,) = place.iterdir()
        assert [mapped(pid) for pid in sessions.values()] == [[("r--s", str(entry))]] * 2
        assert "once for all engines" in stack.log.read_text()
        assert "mapped by engine-1, engine-2" in tell("--run-dir", stack.run_dir).seen("shared-weights")
        assert stack.complete(list(prompt), max_tokens=24)["choices"][0]["token_ids"] == expected
        os.kill(sessions["engine-1"], signal.SIGKILL)
        wait_for(
            lambda: len(set(stack.ready_sessions().values()) - {sessions["engine-1"]}) == 2,
            "another engine-1 is ready",
            60,
        )
        successor = stack.ready_sessions()["engine-1"]
        assert mapped(successor) == [("r--s", str(entry))]
        os.kill(sessions["engine-2"], signal.SIGKILL)
        assert stack.complete(list(prompt), max_tokens=24)["choices"][0]["token_ids"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_those_of_engines_with_weights_of_their_own(model: Path, tmp_path: Path, dtype: str) -> None:
    """Token by token and to the last digit of their log-probabilities; why there is no one copy is said."""
    answers = []
    (tmp_path / "file").write_text("")
    for place, said in (
        (tmp_path / "weights", "once for all engines"),
        ("none", "not shared: engine.weights_dir is none"),
        (tmp_path / "file" / "weights", f"not shared: {tmp_path / 'file'} cannot be written"),
    ):
        scratch = tmp_path / f"stack-{len(answers)}"
        scratch.mkdir()
        with running_stack(scratch, model, f"--dtype={dtype}", f"--weights-dir={place}", engines=1) as stack:
            assert len(mapped(stack.ready_sessions()["engine-1"])) == (not answers)
            assert said in stack.log.read_text()
            answers.append(stack.complete(PROMPT, max_tokens=24, logprobs=3)["choices"][0])
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]
