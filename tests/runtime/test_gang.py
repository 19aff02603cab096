"""The end of a gang: nothing of it may be left in a process that goes on, or that ends."""

import os
import subprocess
import sys
from pathlib import Path

from tests.runtime.gangs import free_port

PROGRAM = """
from pathlib import Path
import torch
from skyloom.runtime.gang import gang

def threads_of_the_gang():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith(("gloo", "pt_")) for name in names)

with gang("cpu") as members:
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # imports what would keep the group
    members.wait()
    during = threads_of_the_gang()
print(during > 0, threads_of_the_gang())
"""


def test_gang_leaves_no_thread_that_could_abort_the_end_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    common = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py")],
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    assert [(rank.communicate(timeout=60)[0], rank.returncode) for rank in ranks] == [("True 0\n", 0)] * 2
