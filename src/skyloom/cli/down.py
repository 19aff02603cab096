"""``skyloom down``: end the control plane that works in a folder, after making sure that it is ours."""

import os
import select
import signal
from typing import Annotated

import msgspec
import typer

from skyloom.cli.frame import AsJson, every, word
from skyloom.cli.render import progress, show
from skyloom.cli.up import Home
from skyloom.core.errors import NotPermitted, SkyloomError, Unavailable
from skyloom.rooms.jobs.model import ALL_ARRAYS, ENDED
from skyloom.sdk.client import Client
from skyloom.sdk.connect import connect
from skyloom.sdk.running import ServerRecord, running
from skyloom.settings import Settings

_PATIENCE_S = 20

app = word("Stop the control plane; jobs go on running.")


class StillStopping(Unavailable):
    """The control plane was asked to stop and has not yet."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """What ``down`` did.

    Attributes:
        was_running: false when there was nothing to stop.
        live_jobs: jobs that go on running without the control plane; the next `skyloom up` takes them over. None when it did not say.
    """

    was_running: bool
    live_jobs: int | None = 0
    cancelled_jobs: int = 0


@app.command()
def down(
    stop_jobs: Annotated[
        bool, typer.Option("--stop-jobs", help="Stop endpoints and cancel jobs first, in every project.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Stop the control plane. Jobs and endpoints go on running, and the next `skyloom up` takes them over."""
    settings = Settings.read(home=home and home.expanduser().absolute())
    record = running(settings.home)
    if record is None:
        return show(Stopped(was_running=False), as_json)
    live, cancelled = _look(settings, record, stop_jobs)
    _end(record)
    show(Stopped(was_running=True, live_jobs=live, cancelled_jobs=cancelled), as_json)


def _look(settings: Settings, record: ServerRecord, stop_jobs: bool) -> tuple[int | None, int]:
    """How many jobs go on, and how many were cancelled. A control plane that cannot say is stopped all the same."""
    token = (settings.home / "token").read_text().strip()
    with connect(record.url, token=token) as cloud:
        try:
            projects = [project.id for project in every(cloud.projects.list)]
        except SkyloomError:
            if stop_jobs:
                raise
            return None, 0
    live = 0
    for project in projects:
        with connect(record.url, token=token, project=project) as cloud:
            jobs = _live_jobs(cloud)
            live += len(jobs)
            if stop_jobs:
                _stop_everything(cloud, jobs)
    return (0, live) if stop_jobs else (live, 0)


def _live_jobs(cloud: Client) -> list[str]:
    return [status.job.id for status in every(lambda **page: cloud.jobs.list(live=True, array=ALL_ARRAYS, **page))]


def _stop_everything(cloud: Client, jobs: list[str]) -> None:
    # Endpoints first, or they would replace the replicas whose jobs are cancelled. Their replicas end by themselves, politely.
    for status in every(lambda **page: cloud.endpoints.list(live=True, **page)):
        cloud.endpoints.stop(status.endpoint.name)
    for array in every(cloud.arrays.list):  # and arrays, or they would make more jobs
        if array.state not in ENDED:
            cloud.arrays.cancel(array.array.id)
    for job_id in jobs:
        cloud.jobs.cancel(job_id)
    with progress("stopping jobs", len(jobs)) as advance:
        for job_id in jobs:
            cloud.jobs.wait(job_id)
            advance(1)
    for job_id in _live_jobs(cloud):  # what a loop had begun to start meanwhile
        cloud.jobs.cancel(job_id)
        cloud.jobs.wait(job_id)


def _end(record: ServerRecord) -> None:
    """Ask the process to stop and wait until it has. Raises `StillStopping`, `NotPermitted`."""
    try:
        handle = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        # Looked at again now that the handle holds: from here on the pid cannot become somebody else's.
        if not record.is_alive:
            return
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], _PATIENCE_S)[0]:
            raise StillStopping(
                f"The control plane (process {record.pid}) has not stopped after {_PATIENCE_S} s.",
                next_action="Wait and try again; its log says what it waits for.",
            )
    except PermissionError as error:
        raise NotPermitted(
            f"Process {record.pid} belongs to another user.", next_action="Stop it as that user."
        ) from error
    finally:
        os.close(handle)
