"""Kill a Python program at its k-th call that changes a disk (write, fsync, rename, mkdir, remove), like a power cut at that moment."""

import signal
import subprocess
import sys
from pathlib import Path

_PRELUDE = """
import os, signal
_calls = 0
def _counted(name):
    real = getattr(os, name)
    def call(*args, **options):
        global _calls
        _calls += 1
        if _calls == {k}:
            if name == "write" and len(args[1]) > 1:
                real(args[0], bytes(args[1])[: len(args[1]) // 2])  # tear it
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    setattr(os, name, call)
for _name in ("write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "ftruncate"):
    _counted(_name)
"""
_COUNT = "\nimport sys; sys.stdout.write('calls=' + str(_calls))\n"


def calls_until_done(program: str, folder: Path) -> int:
    """Run unharmed; returns how many counted calls it made."""
    done = _run(program + _COUNT, folder, k=0)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rpartition("calls=")[2])


def run_and_crash(program: str, folder: Path, k: int) -> None:
    """Run and die at the k-th counted call."""
    done = _run(program, folder, k)
    assert done.returncode == -signal.SIGKILL, f"was to die at call {k}: {done.returncode} {done.stderr}"


def _run(program: str, folder: Path, k: int) -> "subprocess.CompletedProcess[str]":
    code = _PRELUDE.replace("{k}", str(k)) + program
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
