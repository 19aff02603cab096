"""``python -m skyloom.inference.services.reaping PARENT``: end a process group when the process that it is of is gone.

A library that starts processes of its own leaves them behind, with all their memory, when its process is killed; this one ends them.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_reapers: list["subprocess.Popen[bytes]"] = []  # kept: an object that goes warns of its process


def end_children_with_us() -> None:
    """Have every process that this one starts from now on end with it, however it ends. To be called on the main thread."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    if not _reapers:
        line = [sys.executable, "-S", __file__, str(os.getpid())]
        _reapers.append(subprocess.Popen(line, stdin=subprocess.DEVNULL, start_new_session=True))


def main(arguments: list[str]) -> int:
    """Wait for the parent's end; returns the exit code."""
    parent = int(arguments[0])
    signals = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    while os.getppid() == parent:
        signal.sigwait(signals)
    with contextlib.suppress(ProcessLookupError):  # it left nobody
        os.killpg(parent, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
