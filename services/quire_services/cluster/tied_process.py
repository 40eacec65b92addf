"""A process that does not outlive its starter: ``python -m quire_services.cluster.tied_process PID COMMAND``.

The stack of a node is to end, in order, when the actor that watches it is gone, however that died: the kernel sends
SIGTERM then. A process of its own sets that, since a hook between fork and exec is not safe in a process of many
threads, as a Ray worker is. It stays between the two, because Ray kills the children of a worker that it ends, with
SIGKILL: the command is tied to this process as this one is to its starter. SIGTERM is passed on, and the end is the
command's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from quire_services.process.reason import reason_fd
from quire_services.stack.child import die_with


def main(argv: list[str]) -> int:
    """Run the command; its exit code."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))  # until there is somebody to tell
    die_with(int(argv[0]), signal.SIGTERM)()
    told = reason_fd()  # it was handed to this process, and is the command's
    pass_fds = [told] if told >= 0 else []
    command = subprocess.Popen(argv[1:], preexec_fn=die_with(os.getpid(), signal.SIGTERM), pass_fds=pass_fds)
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    if asked:
        command.terminate()
    code = command.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
