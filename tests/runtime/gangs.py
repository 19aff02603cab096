"""Real gangs for tests: one Python process imports torch once and forks N ranks that meet over gloo on the loopback."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

_LAUNCH = """
import os, sys, traceback
import torch, torch._dynamo, torch.nn.parallel.distributed, torch.distributed
from skyloom.runtime.fit import fit
torch.set_num_threads(1)
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
    program: Path, workers: int, folder: Path, timeout_s: float = 90, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a file as every rank of a gang; ``folder`` is its shared folder. Ends all of it on a time-out."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SKYLOOM_")},
        "WORLD_SIZE": str(workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "SKYLOOM_SHARED_FOLDER": str(folder),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(program), str(workers)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
