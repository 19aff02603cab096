"""The variables a task starts with: a clean base that does not depend on how the control plane was started."""

import os
import pwd
import tempfile
from collections.abc import Mapping
from pathlib import Path

from skyloom.core.resources import Resources
from skyloom.engines.local.pythons import PlannedPython

# Read once, when an interpreter or a library starts: a process that was forked warm would not see them.
_READ_AT_START = (
    "PYTHON",
    "LD_",
    "OMP_",
    "MKL_",
    "KMP_",
    "GOMP_",
    "OPENBLAS_",
    "MALLOC_",
    "LC_",
    "LANG",
    "TORCH",
    "PYTORCH",
)
_SET_AFTER_FORK = "OMP_NUM_THREADS"


def base(python: str) -> dict[str, str]:
    """Variables of every task that this interpreter runs."""
    scripts = Path(python).parent
    variables = {
        "PATH": f"{scripts}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": pwd.getpwuid(os.getuid()).pw_dir,
        "LANG": "C.UTF-8",
        "TMPDIR": tempfile.gettempdir(),
        "PYTHONUNBUFFERED": "1",
    }
    if (scripts.parent / "pyvenv.cfg").exists():
        variables["VIRTUAL_ENV"] = str(scripts.parent)
    sources = Path(__file__).resolve().parents[3]
    if sources.name not in ("site-packages", "dist-packages"):
        variables["PYTHONPATH"] = str(sources)  # user code may import skyloom also when it is not installed
    return variables


def inside(variables: Mapping[str, str], planned: PlannedPython) -> dict[str, str]:
    """The variables of a task that runs in a Python environment of its own."""
    scripts = Path(planned.python).parent
    entered = {"PATH": f"{scripts}:{variables['PATH']}", "VIRTUAL_ENV": str(scripts.parent)}
    hidden = {"PYTHONPATH"} if planned.start["isolated"] else set()
    return {**{name: value for name, value in variables.items() if name not in hidden}, **entered}


def rendezvous(rank: int, world_size: int, host: str, port: int) -> dict[str, str]:
    """How the tasks of a gang find each other: the variables of torchrun."""
    return {"RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": host, "MASTER_PORT": str(port)}


def network(interface: str) -> dict[str, str]:
    """Which network interface the gang's libraries use; by themselves they take what the host's name resolves to."""
    return {name: interface for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if interface}


def limits(resources: Resources, gang_gpus: tuple[int, ...]) -> dict[str, str]:
    """Variables that keep libraries inside what the task was given.

    The tasks of a gang see all GPUs of the gang, in rank order, so that ``cuda:LOCAL_RANK`` is right in every script written for
    torchrun; a gang without GPUs sees none.
    """
    return {
        "OMP_NUM_THREADS": str(max(1, int(resources.cpus))),
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in gang_gpus),
    }


def allows_warm(environment: Mapping[str, str]) -> bool:
    """True when none of a task's own variables must be there before the interpreter starts."""
    return all(
        value.isdigit() if name == _SET_AFTER_FORK else not name.startswith(_READ_AT_START)
        for name, value in environment.items()
    )
