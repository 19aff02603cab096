"""A cloud of its own for a campaign, and what of it can be looked at and killed: only processes that it started."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from benchmarks.measures import Cloud, cloud

from skyloom.core.errors import SkyloomError
from skyloom.rooms.serving.model import ReplicaState
from skyloom.sdk.client import Client

T = TypeVar("T")


@contextmanager
def place() -> Iterator[Cloud]:
    """A cloud that gives replicas more cores than there are: they wait for each other rather than for room."""
    with cloud(SKYLOOM_CPUS="64", SKYLOOM_MEMORY="64GiB") as made:
        yield made


def replica_pids(client: Client, endpoint: str) -> dict[str, int]:
    """The processes of an endpoint's replicas that answer, by the replica's id."""
    found = {}
    for item in client.endpoints.get(endpoint).replicas:
        if item.state is ReplicaState.READY:
            found[item.replica.id] = pid_of(client, item.replica.job_id)
    return {replica: pid for replica, pid in found.items() if pid}


def gateway_pids(client: Client) -> list[int]:
    """The processes of the gateways; the youngest first."""
    live = [item for item in client.jobs.list(limit=1000, live=True).items if item.job.spec.name == "gateway"]
    return [pid for item in live if (pid := pid_of(client, item.job.id))]


def pid_of(client: Client, job_id: str) -> int:
    """The process of a job's first task; 0 while there is none."""
    tasks = client.jobs.get(job_id).tasks
    return (tasks[0].pid or 0) if tasks else 0


def kill(pid: int) -> bool:
    """Kill -9; False when it was gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def until(what: str, condition: Callable[[], T | None], timeout_s: float = 120.0, pause_s: float = 0.1) -> T:
    """Wait for something; raises ``TimeoutError`` that names it."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(SkyloomError):
            if found := condition():
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(pause_s)
