"""The line from a task to its control plane, with the task's own token."""

import secrets
from collections.abc import Callable

from skyloom.ports.series import Point
from skyloom.rooms.tracking.model import LogMeasurements
from skyloom.runtime.context import Context
from skyloom.sdk.http import HttpTransport
from skyloom.sdk.transport import Transport


def transport(here: Context, patience_s: float = 300) -> HttpTransport:
    """A transport to this task's control plane; goes on trying through an outage or a full disk for ``patience_s``."""
    return HttpTransport(here.url, here.token, here.project, patience_s=patience_s, wait_for_space=True)


def measurements_sender(here: Context, line: Transport | None = None) -> Callable[[int, tuple[Point, ...]], None]:
    """A `report.Send` for this process's run. Its source is new each time, so its sequence may start at 1."""
    # The reporter itself waits out an outage, and must be able to give up when the process ends.
    connection = line or transport(here, patience_s=0)
    source = f"{here.task_id}.{secrets.token_hex(4)}"

    def send(sequence: int, points: tuple[Point, ...]) -> None:
        connection.send(LogMeasurements(run_id=here.run, source=source, sequence=sequence, points=points))

    return send
