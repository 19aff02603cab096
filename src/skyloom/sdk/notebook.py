"""JupyterLab as a job: started, found again, reached and stopped from here."""

import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.core.resources import Resources, parse_bytes
from skyloom.ports.engine import PythonModule
from skyloom.ports.environment import PythonEnvironment
from skyloom.rooms.jobs.model import ENDED, JobSpec, JobState, JobStatus
from skyloom.sdk.client import Client
from skyloom.sdk.environment import Requirements, python_environment
from skyloom.sdk.jobs import JobFailed
from skyloom.sdk.tunnel import open_tunnel, run_inside

LABEL = "notebook"
PROGRAM = "skyloom.recipes.notebook"
NEEDS = ("jupyterlab>=4", "ipykernel")
_PAUSE_S = 0.5
# Jupyter's own record of itself. A shell reads it: the job's Python may still be in the making.
_ADDRESS = ("sh", "-c", 'cat "$SKYLOOM_TASK_FOLDER"/jupyter/jpserver-*.json')


@dataclass(frozen=True)
class NotebookAddress:
    """Where a notebook listens inside of its job, and the token that opens it."""

    port: int
    token: str


def find(cloud: Client, name: str) -> JobStatus | None:
    """The notebook of that name that has not ended, if there is one."""
    cursor = None
    while True:
        page = cloud.jobs.list(limit=200, cursor=cursor, live=True)
        for status in page.items:
            if status.job.spec.labels.get(LABEL) == name and status.state is not JobState.STOPPING:
                return status
        if page.next_cursor is None:
            return None
        cursor = page.next_cursor


def start(
    cloud: Client,
    name: str = "notebook",
    *,
    cpus: float = 1.0,
    gpus: int = 0,
    memory: str = "2GiB",
    mounts: Mapping[str, str] | None = None,
    requirements: Requirements = None,
    folder: str = "",
    idle_s: float = 8 * 3_600,
    **options: Any,
) -> JobStatus:
    """Queue a notebook. JupyterLab comes with it where the pool does not have it.

    Args:
        requirements: more packages; a file here, or a list.
        folder: of the machine that runs it, for the notebooks; by default one of the job, which is kept after its end.
        idle_s: it ends after so long without activity.
        options: more fields of `JobSpec`.
    """
    # Jupyter takes whole seconds, and 0 for never.
    args = ("--idle-s", str(max(1, math.ceil(idle_s))), *(("--folder", folder) if folder else ()))
    return cloud.jobs.submit(
        JobSpec(
            entry=PythonModule(module=PROGRAM, args=args),
            name=name,
            resources=Resources(cpus=cpus, gpus=gpus, memory_bytes=parse_bytes(memory)),
            mounts=dict(mounts or {}),
            labels={LABEL: name},
            python=_with_jupyter(python_environment(requirements)),
            **options,
        )
    )


def _with_jupyter(asked: PythonEnvironment | None) -> PythonEnvironment:
    wanted = asked or PythonEnvironment()
    return msgspec.structs.replace(wanted, requirements=wanted.requirements + "".join(f"\n{need}" for need in NEEDS))


def address(cloud: Client, job_id: str, tell: Callable[[str], None], *, timeout_s: float = 900.0) -> NotebookAddress:
    """Wait until the notebook answers, and return where. What its job prints until then goes to ``tell``.

    Raises `JobFailed` when the job ended instead, ``TimeoutError``.
    """
    deadline, offset = time.monotonic() + timeout_s, 0
    while time.monotonic() < deadline:
        status = cloud.jobs.get(job_id)
        if status.state is JobState.RUNNING and (found := _asked(cloud, job_id)):
            return found
        chunk = cloud.jobs.logs(job_id, offset=offset)
        offset = chunk.next_offset
        if chunk.text:
            tell(chunk.text)
        if status.state in ENDED:
            error = JobFailed(
                f"The notebook {job_id} {status.state.value}: {status.message}.",
                next_action=status.next_action or f"See: skyloom why {job_id}.",
            )
            error.status = status
            raise error
        time.sleep(_PAUSE_S)
    raise TimeoutError(f"the notebook {job_id} does not answer after {timeout_s:g} s")


def _asked(cloud: Client, job_id: str) -> NotebookAddress | None:
    """Ask inside of the job; None while it is not ready, or between two states."""
    output = io.BytesIO()
    try:
        with open_tunnel(cloud.transport, cloud.jobs.exec(job_id, _ADDRESS)) as tunnel:
            end = run_inside(tunnel, None, output, io.BytesIO())
    except SkyloomError as error:
        if error.code in ("task_not_running", "task_not_there", "tunnel_closed"):
            return None
        raise
    try:
        return msgspec.json.decode(output.getvalue(), type=NotebookAddress) if end.exit_code == 0 else None
    except msgspec.MsgspecError:
        return None  # it is being written
