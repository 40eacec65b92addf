"""Running the ``quire`` command in this process, and what every complaint of it must look like."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import structlog

from quire_services import cli
from quire_services.config import input_files
from quire_services.process import kvstore_call
from tests.support.service import LAYOUT

LONGEST = 800


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def complains(self, named: str) -> None:
        """It failed, said so in one printable line that names what is wrong, and printed no result."""
        assert self.code in (1, 2), self
        assert (self.out, self.err.count("\n"), self.err[-1:]) == ("", 1, "\n"), self
        assert self.err.startswith("quire "), self
        assert self.err[:-1].isprintable(), self
        assert len(self.err) <= LONGEST, self
        assert named in self.err, self


class Quire:
    """The command."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object) -> Ran:
        """Run it. An exception that it lets out is the test's failure, as it would be the user's traceback."""
        self._capture.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        said = self._capture.readouterr()
        return Ran(code, said.out, said.err)


@contextmanager
def command(capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> Iterator[Quire]:
    """The command, less patient than it is; how it logs is undone."""
    patch.setattr(input_files, "SILENCE_S", 0.1)
    patch.setattr(kvstore_call, "ANSWER_TIMEOUT_S", 0.3)
    patch.delenv("QUIRE_CONFIG", raising=False)
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield Quire(capture)
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def prepared(run_dir: Path, **other: object) -> Path:
    """A run directory's prepared file, right but for ``other``."""
    file = run_dir / "prepared.json"
    published = [{"id": "p", "domain": "public", "tokens": [1, 2]}]
    content = {"model": "m", "model_dir": "/", "max_model_len": 64, "layout": asdict(LAYOUT), "published": published}
    file.write_text(json.dumps(content | other))
    return file
