"""Real gangs for tests: one process imports torch and forks a leader for each of them, which forks the ranks; they meet over gloo on
the loopback."""

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_IMPORTS = """
import json, os, sys, traceback
import torch, torch._dynamo, torch.nn.parallel.distributed, torch.distributed
from skyloom.runtime.fit import fit
torch.set_num_threads(1)
"""
_FORK = """
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.environ.clear()
        os.environ.update(asked["environment"])
        for number, name in enumerate(("/dev/null", *asked["output"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        sys.argv = ["-c", *asked["words"]]
        break
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    sys.exit()
"""
_LEAD = """
program, workers = sys.argv[1], int(sys.argv[2])
children = []
for rank in range(workers):
    pid = os.fork()
    if pid == 0:
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
        code = 1
        try:
            exec(compile(open(program).read(), program, "exec"), {"__name__": "__main__", "__file__": program})
            code = 0
        except SystemExit as asked:
            code = asked.code if isinstance(asked.code, int) else 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(code)
    children.append(pid)
# Like an engine: when one rank dies, the others are ended too.
worst = 0
for _ in range(workers):
    pid, status = os.wait()
    children.remove(pid)
    if status:
        worst = worst or os.waitstatus_to_exitcode(status)
        for child in children:
            os.kill(child, 9 if os.environ.get("END_GANG") else 0)
sys.exit(worst if worst >= 0 else 128 - worst)
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_gang(
    program: Path, workers: int, folder: Path, timeout_s: float = 90, *, fresh: bool = False, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a file as every rank of a gang; ``folder`` is its shared folder. Ends all of it on a time-out.

    Args:
        fresh: by an interpreter of its own, with other hashes and nothing that an earlier gang could have left; takes three seconds more.
    """
    environment = {
        **_outside(),
        "WORLD_SIZE": str(workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "SKYLOOM_SHARED_FOLDER": str(folder),
        **variables,
    }
    words = [str(program), str(workers)]
    with tempfile.TemporaryDirectory() as kept:
        output = [Path(kept) / name for name in ("out", "err")]
        asked = {"environment": environment, "words": words, "output": [str(path) for path in output]}
        source = _started() if fresh else _imported()
        code = _asked(source, asked, timeout_s)
        if fresh:
            _end(source)
        return subprocess.CompletedProcess(words, code, *(path.read_text() for path in output))


def _asked(source: "subprocess.Popen[bytes]", asked: object, timeout_s: float) -> int:
    assert source.stdin is not None and source.stdout is not None
    source.stdin.write(json.dumps(asked).encode() + b"\n")
    pid = int(source.stdout.readline())
    if not select.select([source.stdout], [], [], timeout_s)[0]:
        os.killpg(pid, signal.SIGKILL)
        source.stdout.readline()
        raise subprocess.TimeoutExpired("a gang", timeout_s)
    return int(source.stdout.readline())


@functools.cache
def _imported() -> "subprocess.Popen[bytes]":
    """The process that all gangs of this one are forked from."""
    source = _started()
    atexit.register(_end, source)
    return source


def _started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _IMPORTS + _FORK + _LEAD],
        env=_outside(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # nothing that `select` would not see
    )


def _end(source: "subprocess.Popen[bytes]") -> None:
    with source:
        assert source.stdin is not None
        source.stdin.close()


def _outside() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SKYLOOM_")}
    return {**ours, "OMP_NUM_THREADS": "1"}
