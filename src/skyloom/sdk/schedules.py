"""Schedules from Python: jobs that begin by the clock."""

from typing import Any

from skyloom.core.operation import Done, Page
from skyloom.rooms.jobs.model import JobSpec
from skyloom.rooms.schedules import model
from skyloom.rooms.schedules.model import Missed, Overlap, ScheduleStatus
from skyloom.sdk.specs import job_spec
from skyloom.sdk.transport import Transport


class ScheduleCalls:
    """``cloud.schedules``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        cron: str,
        spec: JobSpec | None = None,
        *,
        time_zone: str = "UTC",
        missed: Missed | str = Missed.SKIP,
        overlap: Overlap | str = Overlap.SKIP,
        **options: Any,
    ) -> ScheduleStatus:
        """Begin a job at each slot of a cron line: a ``spec``, or what ``cloud.jobs.run`` takes (``command=``, ``script=``, …)."""
        ask = model.CreateSchedule(
            name=name,
            cron=cron,
            spec=spec or job_spec(self._transport, **{"name": name, **options}),
            time_zone=time_zone,
            missed=Missed(missed),
            overlap=Overlap(overlap),
        )
        return self._transport.send(ask)

    def get(self, name: str) -> ScheduleStatus:
        """Show a schedule, its next slots and its last job."""
        return self._transport.send(model.GetSchedule(name=name))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[ScheduleStatus]:
        """List schedules, newest first."""
        return self._transport.send(model.ListSchedules(limit=limit, cursor=cursor))

    def pause(self, name: str) -> ScheduleStatus:
        """Begin no more jobs until it is resumed."""
        return self._transport.send(model.PauseSchedule(name=name))

    def resume(self, name: str) -> ScheduleStatus:
        """Go on from now, with your rights; what went by is gone."""
        return self._transport.send(model.ResumeSchedule(name=name))

    def delete(self, name: str) -> Done:
        """Forget a schedule. Jobs that it began go on."""
        return self._transport.send(model.DeleteSchedule(name=name))
