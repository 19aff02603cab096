"""Command lines that are forked from a process with the imports done: the same words to the same program, without the second that
it takes to import it. For tests that say dozens of them; how a command starts by itself is what the others show."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from skyloom.cli import main
from tests.forks import FORKS
from tests.terminal import Said


def run_command(words: Sequence[str], environment: Mapping[str, str], folder: Path, timeout_s: float = 90) -> Said:
    """Run a command line as a process with this environment; ``folder`` takes what it says."""
    out, err = folder / "command.out", folder / "command.err"
    process = FORKS.Process(target=_run, args=(list(words), dict(environment), out, err))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"skyloom {' '.join(words)} has not ended in {timeout_s} s: {err.read_text()}")
    return Said(process.exitcode, out.read_text(), err.read_text())


def _run(words: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, number in ((out, 1), (err, 2)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["skyloom", *words]
    sys.exit(main(words))
