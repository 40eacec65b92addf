"""Questions to a running kvstore, asked without a session: one reader, one answer, and a command's failure in one line.

For everything of a stack that looks at its kvstore from outside: subcommands, the admin API, readiness.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from quire_kv import KVReader, KvstoreUnreachable, QuireError
from quire_proto.client.socket import KVSTORE_SOCKET
from quire_services.config.input_files import one_line

ANSWER_TIMEOUT_S = 5.0
_T = TypeVar("_T")


@contextmanager
def kvstore_reader(run_dir: Path, timeout_s: float) -> Iterator[KVReader]:
    """A reader of the kvstore in a run directory. Raises FileNotFoundError at once if there is none, QuireError or
    OSError if it does not answer."""
    if not (run_dir / KVSTORE_SOCKET).is_socket():
        raise FileNotFoundError(f"there is no {KVSTORE_SOCKET}")
    with KVReader(run_dir, timeout=timeout_s) as reader:
        yield reader


def answer_of(
    command: str, run_dir: Path, question: Callable[[KVReader], _T], timeout_s: float = ANSWER_TIMEOUT_S
) -> _T | None:
    """The kvstore's answer to a command's question; None after saying in one line on stderr why there is none."""
    try:
        with kvstore_reader(run_dir, timeout_s) as reader:
            return question(reader)
    except (KvstoreUnreachable, FileNotFoundError) as error:
        complaint = f"no kvstore answers in {run_dir}: {error}"
    except (QuireError, OSError) as error:
        complaint = str(error)
    sys.stderr.write(f"{command}: {one_line(complaint)}\n")
    return None


def print_answer(command: str, run_dir: Path, question: Callable[[KVReader], str]) -> int:
    """Print what ``question`` makes of the kvstore's answer; returns the exit code, 1 if there was no good one."""
    text = answer_of(command, run_dir, question)
    if text is None:
        return 1
    sys.stdout.write(text + "\n")
    return 0
