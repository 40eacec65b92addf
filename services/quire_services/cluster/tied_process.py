"""A process that does not outlive its starter: ``python -m quire_services.cluster.tied_process PID COMMAND``.

The stack of a node is to end, in order, when the actor that watches it is gone, however that died: the kernel sends
SIGTERM then. A process of its own sets that and becomes the command, since a hook between fork and exec is not safe in
a process of many threads, as a Ray worker is.
"""

from __future__ import annotations

import os
import signal
import sys

from quire_services.stack.child import die_with


def main(argv: list[str]) -> None:
    """Become the command."""
    die_with(int(argv[0]), signal.SIGTERM)()
    os.execv(argv[1], argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
