"""The path of one cold ``allocate`` through the kvstore: which functions it passes, in which files.

    python scripts/allocate_path.py [--list] [ROOT]

The request is dispatched in this process, by the code of the source tree ``ROOT`` (this one's by default), from its
frame to its reply; nothing is cached, and the table is short. It is the second one of its tenant: what is done once
(readers of bodies compiled, the account opened) is not counted. Comprehensions and generators count as the functions
they lie in.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import FrameType
from typing import Any

FOLDERS = ("proto", "kvstore", "kernels", "engine", "services", "")
# Where a tree's tests keep the kvstore without a socket; older trees have it elsewhere, or by another name.
HARNESSES = (
    ("tests.support.service", "BareService"),
    ("tests.support.service", "Wire"),
    ("tests.kvstore.service_fixture", "Wire"),
)
ENTRY = "Dispatch.handle"
ENCODED = "to_map"  # what the op has answered
TOKENS = 17
EARLIER, DIGESTS = bytes(range(64, 128)), bytes(range(64))


def harness() -> Any:
    """The tree's dispatch with a client in this process, attached."""
    for module, name in HARNESSES:
        try:
            harness_class = getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError):
            continue
        wire = harness_class()
        wire.open()
        return wire
    raise SystemExit("this tree has no kvstore for tests that is driven without a socket")


def functions(root: Path) -> list[tuple[str, str]]:
    """(file, function) in the order in which the request first meets them."""
    sys.path[:0] = [str(root / folder) for folder in FOLDERS]
    wire = harness()
    from quire_proto import messages

    assert not wire.ask("allocate", 2, messages.Allocate(1, "a", TOKENS, EARLIER, may_wait=1)).code
    found: dict[tuple[str, str], None] = {}
    inside = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal inside
        code = frame.f_code
        entry = code.co_qualname == ENTRY
        inside += entry and event == "call"
        if inside and event == "call" and "/quire_" in code.co_filename:
            name = code.co_qualname.partition(".<locals>")[0].partition(".<")[0]
            found[str(Path(code.co_filename).relative_to(root)), name] = None
        inside -= entry and event == "return"

    sys.setprofile(note)
    try:
        reply = wire.ask("allocate", 3, messages.Allocate(2, "a", TOKENS, DIGESTS, may_wait=1))
    finally:
        sys.setprofile(None)
    assert not reply.code, reply
    return [name for name in found if "<" not in name[1]]


def of_the_op(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The part from the op's handler to its answer, without the server around it."""
    first = next(at for at, (_, name) in enumerate(found) if name.endswith("allocate"))
    last = next(at for at, (_, name) in enumerate(found) if name == ENCODED)
    return [entry for entry in found[first:last] if "/quire_kvstore/" in entry[0]]


def main(argv: list[str]) -> int:
    """Print how many, and which."""
    parser = argparse.ArgumentParser(description="Functions and files that one cold allocate passes.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--list", action="store_true", help="the functions as well")
    options = parser.parse_args(argv)
    found = functions(options.root.resolve())
    kvstore = [entry for entry in found if "/quire_kvstore/" in entry[0]]
    for what, entries in (("the op", of_the_op(found)), ("the kvstore", kvstore), ("with the wire's codec", found)):
        print(f"{what}: {len(entries)} functions in {len({file for file, _ in entries})} files")
    if options.list:
        print("\n".join(f"  {file}  {name}" for file, name in found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
