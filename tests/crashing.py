"""Kill a Python program at its k-th call that changes a disk (write, fsync, rename, mkdir, remove), like a power cut at that moment.

A program is forked with most of its imports done, since there are dozens of calls to be killed at; not so one whose own process is what
others look for.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import NamedTuple

from tests.forks import FORKS

# Of the stories that are killed around each commit of a control plane: 2 is every other one, before and after taking turns.
# The whole campaign: CRASH_STRIDE=1 pytest tests/e2e/test_crashes.py tests/e2e/test_budgets.py
STRIDE = int(os.environ.get("CRASH_STRIDE", "2"))

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


def calls_until_done(program: str, folder: Path, *, forked: bool = True) -> int:
    """Run unharmed; returns how many counted calls it made."""
    done = _run(program + _COUNT, folder, 0, forked)
    assert done.returncode == 0, done.output
    return int(done.output.rpartition("calls=")[2])


def run_and_crash(program: str, folder: Path, k: int, *, forked: bool = True) -> None:
    """Run and die at the k-th counted call."""
    done = _run(program, folder, k, forked)
    assert done.returncode == -signal.SIGKILL, f"was to die at call {k}: {done.returncode} {done.output}"


class _Done(NamedTuple):
    returncode: int
    output: str


def _run(program: str, folder: Path, k: int, forked: bool) -> _Done:
    code = _PRELUDE.replace("{k}", str(k)) + program
    if not forked:
        words = [sys.executable, "-c", code, str(folder)]
        done = subprocess.run(words, stdout=PIPE, stderr=STDOUT, text=True, timeout=60, check=False)
        return _Done(done.returncode, done.stdout)
    with tempfile.TemporaryDirectory() as kept:
        output = Path(kept) / "output"
        process = FORKS.Process(target=_be, args=(code, folder, dict(os.environ), output))
        process.start()
        process.join(60)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"has not ended in 60 s: {output.read_text()}")
        return _Done(process.exitcode, output.read_text())


def _be(code: str, folder: Path, environment: Mapping[str, str], output: Path) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", str(folder)]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
