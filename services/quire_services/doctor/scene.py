"""The scene: what is examined, as far as it is known before a check has looked.

Settings are those of the command, of the environment and of the file, as for any other command; what none of them says
is taken from the stack of the run directory, as its processes were started: ``quire doctor --run-dir DIR`` alone
examines a running stack as it is. Everything here is read from files, and asks no process anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from quire_engine.checkpoint.refusal import ModelRefused
from quire_kv import Layout
from quire_kvstore.host.pool_size import HOST_BLOCKS
from quire_proto.peer_socket import socket_state
from quire_proto.wire.codec import CodecError, from_map
from quire_services.config.input_files import read_bytes
from quire_services.config.loader import ConfigError, load_config
from quire_services.config.prepared_file import PREPARED_FILE, read_prepared
from quire_services.config.process_table import PROCESSES_FILE, ProcessEntry, ProcessTable, read_process_table
from quire_services.config.settings import POOL_SIZES, SECTIONS, Config
from quire_services.process.model.served_model import local_directory
from quire_services.stack.rundir import MARK_BYTES, MARKER_FILE

_OF_THE_DOCTOR = ("run_dir", "role")  # what a process was started with, and is no setting of the stack
_SECTION_OF = {
    spec.name: section for section, kind in SECTIONS.items() for spec in fields(kind) if spec.name not in _OF_THE_DOCTOR
}


_SIZES = tuple(f"kvstore.{name}" for name in POOL_SIZES)


@dataclass(frozen=True)
class Scene:
    """What is examined.

    Attributes:
        config: the settings; where they cannot be used, as many as can.
        mistake: why not, one line.
        run_dir: the run directory.
        table: what has been started there; empty if it cannot be read.
    """

    config: Config
    mistake: str
    run_dir: Path
    table: ProcessTable

    @classmethod
    def of(cls, flags: Mapping[str, str], environ: Mapping[str, str]) -> Scene:
        """The scene of a command's flags and its environment. Raises ConfigError if not even these can be used."""
        config, mistake = _config(flags, environ)
        run_dir = config.run_dir
        table = read_process_table(run_dir)
        if started := _started_with(table):
            if any(size in flags for size in _SIZES):  # two at once are a mistake
                started = {key: value for key, value in started.items() if key not in _SIZES}
            config, mistake = _config({**started, **flags}, environ)
        return cls(config, mistake, run_dir, table)

    @cached_property
    def layout(self) -> Layout | None:
        """Of the pool here, as it was prepared; None if nothing was."""
        try:
            return from_map(Layout, read_prepared(self.run_dir / PREPARED_FILE)["layout"])
        except (OSError, ValueError, LookupError, TypeError, CodecError):
            return None

    @property
    def pool_bytes(self) -> int:
        """What the pool takes; 0 if only a start can say: without a layout, or as a share of what is free."""
        pool = self.config.kvstore
        if pool.sized_by == "blocks":
            return self.layout.arena_bytes(pool.blocks or HOST_BLOCKS) if self.layout else 0
        return int(pool.kv_gib * (1 << 30))

    @property
    def model(self) -> Path | None:
        """The model's directory: as set, of a hub's model the one in the cache, or the one that was prepared here."""
        if self.config.serve.model:
            with suppress(ModelRefused, ImportError):
                if found := local_directory(self.config.serve):
                    return found
            return Path(self.config.serve.model).absolute()
        with suppress(OSError, ValueError, LookupError, TypeError):
            return Path(read_prepared(self.run_dir / PREPARED_FILE)["model_dir"])
        return None

    @property
    def engines(self) -> int:
        """How many engines there are, or are to be."""
        return sum(name.startswith("engine-") for name in self.table.processes) or self.config.serve.engines

    @cached_property
    def instance(self) -> str:
        """What the gateway of a stack here calls itself; empty if no `quire serve` was here."""
        try:
            found = json.loads(read_bytes(self.run_dir / MARKER_FILE, MARK_BYTES))
            return str(found["instance"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return ""

    def listens(self, name: str) -> bool:
        """Whether a process listens at a socket of the run directory."""
        return socket_state(self.run_dir / name) == "alive"

    def process(self, name: str) -> ProcessEntry | None:
        """A process of the table that runs."""
        entry = self.table.processes.get(name)
        return entry if entry and entry.runs() else None

    @property
    def table_is_foreign(self) -> bool:
        """Whether there is a process table that means nothing here: of another boot or another pid namespace."""
        return not self.table.processes and not self.table.supervisor.pid and (self.run_dir / PROCESSES_FILE).exists()


def process_state(pid: int) -> str:
    """The letter of a process's state as ``ps`` shows it, "" if it is gone: T is stopped, D waits for a device."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def lock_owner(file: Path) -> int:
    """The process that holds a lock on a file, 0 if none does that we can see. Taking the lock, even for an instant,
    could refuse it to a process that starts."""
    try:
        info = file.stat()
    except OSError:
        return 0
    here = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    for words in _locks():
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == here:
            return max(0, int(words[4]))
    return 0


def _locks() -> Iterator[list[str]]:
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            yield line.split()  # of one that waits for a lock the second word is "->"


def _config(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Config, str]:
    """The configuration, and what is wrong with it; then that of the flags alone. Raises ConfigError for flags that are
    wrong themselves."""
    try:
        return load_config(flags, environ), ""
    except ConfigError as error:
        own = {key: value for key, value in flags.items() if key != "config"}
        return load_config(own, {}), str(error)


def _started_with(table: ProcessTable) -> dict[str, str]:
    """The flags that a stack's processes were started with, as the loader takes them."""
    found: dict[str, str] = {}
    for entry in table.processes.values():
        for word in entry.argv:
            name, is_flag, value = word.partition("=")
            field = name.removeprefix("--").replace("-", "_")
            if is_flag and field == "config":
                found["config"] = value
            elif is_flag and field in _SECTION_OF:
                found[f"{_SECTION_OF[field]}.{field}"] = value
    return found
