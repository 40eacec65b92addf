"""``quire prefix``: requests of frameworks published as variants of one prompt, listed, explained and taken back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.cli.test_hostile_files import CONTENTS
from tests.support.gateway import write_tokenizer
from tests.support.kvstore import Kvstore
from tests.support.quire_command import Quire, prepared

pytestmark = pytest.mark.process
REQUESTS = Path(__file__).parents[1] / "gateway" / "published_prompts" / "requests"


class Prefix:
    """The command in a run directory whose kvstore runs."""

    def __init__(self, quire: Quire, run_dir: Path) -> None:
        self._quire, self.run_dir = quire, run_dir

    def __call__(self, *words: object) -> str:
        """Run it; what it prints."""
        ran = self._quire("prefix", *words, "--run-dir", self.run_dir)
        assert ran.code == 0, ran
        return ran.out

    def listed(self) -> list[tuple[str, str, int]]:
        """Ids, variants and lengths."""
        return [(row["id"], row["variant"], row["tokens"]) for row in json.loads(self("list", "--json"))]

    def refused(self, named: str, *words: object) -> None:
        """Run it; it must complain of ``named``."""
        self._quire("prefix", *words, "--run-dir", self.run_dir).complains(named)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run directory with a kvstore, and a model that has a tokenizer."""
    folder = tmp_path_factory.mktemp("prefix")
    write_tokenizer(folder)
    kvstore = Kvstore(folder / "run", blocks=4096, published=()).start()
    prepared(folder / "run", model_dir=str(folder), max_model_len=4096)
    yield folder / "run"
    assert kvstore.end(signal.SIGTERM) == 0


@pytest.fixture
def prefix(quire: Quire, running: Path) -> Iterator[Prefix]:
    it = Prefix(quire, running)
    yield it
    for identity in {row[0] for row in it.listed()}:
        it("unpublish", identity)


def publish(prefix: Prefix, framework: str, *words: object) -> dict[str, Any]:
    """Publish a framework's request as ``agent``."""
    file = REQUESTS / f"{framework}.json"
    said = prefix("publish", "--from-request", file, "--domain", "public", "--id", "agent", "--json", *words)
    found: dict[str, Any] = json.loads(said)
    return found


def test_variants_of_one_prompt(prefix: Prefix) -> None:
    """Each request is one more under the id, the same again is none; one is taken back, or all, or replaced."""
    made = [publish(prefix, framework) for framework in ("openai", "langchain", "autogen", "openai")]
    rows = [("agent", one["variant"], one["tokens"]) for one in made[:3]]
    assert made[3] == made[0]
    assert sorted(prefix.listed()) == sorted(rows)
    assert prefix("list").count("\nagent ") == 3

    assert prefix("unpublish", "agent", "--variant", made[1]["variant"]) == "agent: unpublished\n"
    prefix.refused("no publication", "unpublish", "agent", "--variant", made[1]["variant"])
    assert sorted(prefix.listed()) == sorted([rows[0], rows[2]])
    publish(prefix, "autogen", "--replace")
    assert prefix.listed() == [rows[2]]
    publish(prefix, "crewai", "--replace")
    assert [row[0] for row in prefix.listed()] == ["agent"]
    publish(prefix, "openai")
    assert prefix("unpublish", "agent") == "agent: unpublished, 2 variants\n"
    assert prefix.listed() == []


def test_a_prompt_has_so_many_variants(prefix: Prefix, tmp_path: Path) -> None:
    """Sixteen; the next one is refused and nothing is lost."""
    file = tmp_path / "agent.txt"
    for number in range(17):
        file.write_text(f"You are agent number {number}.")
        if number < 16:
            prefix("publish", "--file", file, "--domain", "public")
    prefix.refused("has 16 variants", "publish", "--file", file, "--domain", "public")
    assert len(prefix.listed()) == 16


def test_a_request_is_explained(prefix: Prefix) -> None:
    """A hit names its variant; what is none names the first difference and what would help, for people and as JSON."""
    file = REQUESTS / "langchain.json"
    assert "nothing is published" in prefix("explain", file)
    made = publish(prefix, "openai")
    said = prefix("explain", file)
    assert "none of them shared" in said
    assert "--tools-in-prompt canonical" in said
    found = json.loads(prefix("explain", file, "--json", "--tenant", "ann"))
    assert found["matched"] is None
    assert found["difference"]["field"].startswith("tools[0].function.")
    assert found["nearest"]["variant"] == made["variant"]
    publish(prefix, "langchain")
    assert json.loads(prefix("explain", file, "--json"))["matched"]["id"] == "agent"


def test_what_cannot_be_is_refused(prefix: Prefix, tmp_path: Path) -> None:
    """Options that do not go together, and requests that are none, named."""
    request, public = REQUESTS / "openai.json", ("--domain", "public")
    prefix.refused("--tools", "publish", "--from-request", request, "--tools", request, *public)
    prefix.refused("--any-tools", "publish", "--file", request, "--any-tools", *public)
    prefix.refused("not allowed with", "publish", "--from-request", request, "--file", request, *public)
    file = tmp_path / "hostile.json"
    for content in CONTENTS.values():
        file.write_bytes(content)
        prefix.refused(str(file), "explain", file)
        prefix.refused(str(file), "publish", "--from-request", file, *public)
    assert prefix.listed() == []
