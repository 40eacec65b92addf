"""How a process ended, in words: its exit code, or the signal that killed it and what is usually behind that."""

from __future__ import annotations

import signal

UNKNOWN_CODE = 256  # of a process that another one has reaped; the kernel has codes up to 255

_CAUSES = {
    signal.SIGKILL: "if you did not do it, the machine or the container was out of memory: see dmesg",
    signal.SIGBUS: "shared memory could not be given: /dev/shm or the container's memory is full (df /dev/shm)",
    signal.SIGILL: "this processor lacks an instruction that a library was built for",
    signal.SIGSEGV: "a crash in native code: see dmesg, and run it alone under `python -X faulthandler`",
    signal.SIGABRT: "a native library gave up: the lines before this one say why",
    signal.SIGFPE: "a crash in native code",
    signal.SIGSYS: "a system call that this sandbox forbids (seccomp)",
    signal.SIGXCPU: "its limit of processor time was reached (ulimit -t)",
    signal.SIGXFSZ: "its limit of a file's size was reached (ulimit -f)",
}


def how_it_ended(code: int) -> str:
    """An exit code as subprocess gives it (negative: the signal), as a clause."""
    if code == UNKNOWN_CODE:
        return "ended, how is not known: another supervisor had started it"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}"
    cause = _CAUSES.get(number)
    return f"was killed by {number.name}" + (f" ({cause})" if cause else "")
