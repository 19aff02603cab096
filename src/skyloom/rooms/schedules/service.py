"""The service of schedules: keeps them, and in a loop begins the jobs whose slot has come.

A job and the slot after it are written in one transaction, and the job's id is made of the slot, so no crash begins one twice
or loses the next.
"""

import logging
from collections.abc import Callable
from functools import partial

from skyloom.core.errors import REFUSALS
from skyloom.core.events import Noted
from skyloom.core.ids import Ids
from skyloom.core.isolation import isolated
from skyloom.core.operation import Caller, Done, Page, Right
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.lookup import listed, named, owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.jobs import model as jobs_model
from skyloom.rooms.jobs.bounds import MAX_SCHEDULES, check_number
from skyloom.rooms.jobs.dependencies import job_state
from skyloom.rooms.jobs.model import JobMissing, JobState
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.schedules import model, rules
from skyloom.rooms.schedules.model import PauseReason, Schedule, ScheduleStatus
from skyloom.rooms.schedules.ports import SCHEDULES

LostRight = Callable[[Snapshot, str, str, Right, str], str]
"""Why a token, in a project, carries a right of somebody no more: `Tenancy.lost_right`."""

log = logging.getLogger("skyloom.schedules")
_FEWER = "Delete some: skyloom schedule delete NAME."
_NUM_UPCOMING = 5
_AT_ONCE = 500
_SHORTEST_S, _LONGEST_S = 0.05, 10.0  # the longest bounds how late a clock that jumps is noticed


class Schedules:
    """Schedules of all projects.

    Args:
        lost_right: asked before each job that is to begin.
        most: schedules of one project.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        outbox: Outbox,
        jobs: Jobs,
        lost_right: LostRight,
        most: int = MAX_SCHEDULES,
    ) -> None:
        self._most = most
        self._lost_right = lost_right
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._jobs = jobs

    def handlers(self) -> Handlers:
        return {
            model.CreateSchedule: Change(self.create, before=self.check),
            model.GetSchedule: Query(self.get),
            model.ListSchedules: Query(self.list),
            model.PauseSchedule: Change(self.pause),
            model.ResumeSchedule: Change(self.resume),
            model.DeleteSchedule: Change(self.delete),
        }

    # Asking

    def check(self, ask: model.CreateSchedule, by: Caller) -> None:
        """Refuse what could never begin, or never run."""
        rules.check(ask.cron, ask.time_zone, ask.spec, self._clock.now())
        self._jobs.check_asked(jobs_model.SubmitJob(spec=ask.spec), by)

    def create(self, tx: Transaction, ask: model.CreateSchedule, by: Caller) -> ScheduleStatus:
        self._jobs.check_named(tx, ask.spec, by.project)
        check_number(tx, SCHEDULES, {"project": by.project}, self._most, "schedules", _FEWER)
        now = self._clock.now()
        schedule = tx.insert(
            SCHEDULES,
            Schedule(
                id=self._ids.new("schedule"),
                project=by.project,
                name=ask.name,
                spec=ask.spec,
                cron=ask.cron,
                time_zone=ask.time_zone,
                missed=ask.missed,
                overlap=ask.overlap,
                created_at=now,
                created_by=by.principal,
                owner=by.principal,
                token_id=by.token_id,
                next_at=rules.next_slot(ask.cron, ask.time_zone, now) or rules.NEVER,
            ),
        )
        self._note(tx, schedule, f"made by {by.principal}: {ask.cron} ({ask.time_zone})")
        return self._status(tx, schedule)

    def find(self, view: Snapshot, name: str, project: str) -> Schedule:
        """A schedule by its name. Raises `ScheduleMissing`."""
        found = named(view, SCHEDULES, name, project)
        if found is None:
            raise model.ScheduleMissing(
                f"There is no schedule {name!r}.", next_action="List yours: skyloom schedule list."
            )
        return found

    def get(self, ask: model.GetSchedule, by: Caller) -> ScheduleStatus:
        return self._store.read(lambda view: self._status(view, self.find(view, ask.name, by.project)))

    def list(self, ask: model.ListSchedules, by: Caller) -> Page[ScheduleStatus]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, SCHEDULES, where, ask).shown(partial(self._status, view)))

    def status(self, view: Snapshot, schedule_id: str, project: str) -> ScheduleStatus:
        """A schedule by its id. Raises `ScheduleMissing`."""
        schedule = owned(view, SCHEDULES, schedule_id, project)
        if schedule is None:
            raise model.ScheduleMissing(
                f"There is no schedule {schedule_id}.", next_action="List yours: skyloom schedule list."
            )
        return self._status(view, schedule)

    def _status(self, view: Snapshot, schedule: Schedule) -> ScheduleStatus:
        slots: tuple[float, ...] = ()
        if not schedule.paused:
            before = schedule.next_at - 1 if schedule.next_at < rules.NEVER else self._clock.now()
            slots = rules.upcoming(schedule.cron, schedule.time_zone, before, _NUM_UPCOMING)
        return ScheduleStatus(schedule=schedule, upcoming=slots, last_state=self._last(view, schedule))

    def _last(self, view: Snapshot, schedule: Schedule) -> JobState | None:
        try:
            return job_state(view, schedule.last_job, schedule.project) if schedule.last_job else None
        except JobMissing:
            return None

    def pause(self, tx: Transaction, ask: model.PauseSchedule, by: Caller) -> ScheduleStatus:
        schedule = self.find(tx, ask.name, by.project)
        if not schedule.paused:
            schedule = tx.update(SCHEDULES, rules.paused(schedule, PauseReason.ASKED, by.principal))
            self._note(tx, schedule, f"paused by {by.principal}")
        return self._status(tx, schedule)

    def resume(self, tx: Transaction, ask: model.ResumeSchedule, by: Caller) -> ScheduleStatus:
        schedule = self.find(tx, ask.name, by.project)
        if schedule.paused or schedule.token_id != by.token_id:
            self._jobs.check_named(tx, schedule.spec, by.project)
            again = rules.resumed(schedule, self._clock.now()) if schedule.paused else schedule
            schedule = tx.update(SCHEDULES, changed(again, {"owner": by.principal, "token_id": by.token_id}))
            self._note(tx, schedule, f"resumed by {by.principal}")
        return self._status(tx, schedule)

    def delete(self, tx: Transaction, ask: model.DeleteSchedule, by: Caller) -> Done:
        schedule = self.find(tx, ask.name, by.project)
        tx.delete(SCHEDULES, schedule.id)
        self._note(tx, schedule, f"deleted by {by.principal}")
        return Done()

    # The loop

    def tick(self) -> float:
        """Begin the jobs whose slot has come. Returns the seconds after which the next round is due."""
        waiting = self._store.read(
            lambda view: view.select(SCHEDULES, {"paused": False}, order="next_at", limit=_AT_ONCE)
        )
        now = self._clock.now()
        for schedule in waiting:
            if schedule.next_at > now:
                return min(_LONGEST_S, max(_SHORTEST_S, schedule.next_at - now))
            with isolated(log, f"schedule {schedule.id}"):
                self._begin(schedule)
        return _LONGEST_S if len(waiting) < _AT_ONCE else _SHORTEST_S

    def _begin(self, schedule: Schedule) -> None:
        try:
            self._store.write(lambda tx: self._fire(tx, schedule))
        except REFUSALS as refusal:
            why = str(refusal)
            self._store.write(lambda tx: self._refused(tx, schedule, why))

    def _fire(self, tx: Transaction, schedule: Schedule) -> None:
        if not _is_as_read(tx, schedule):
            return
        lost = self._lost_right(tx, schedule.token_id, schedule.project, Right.RUN, schedule.owner)
        if lost:
            why = f"{lost}; who resumes it gives it his own rights"
            tx.update(SCHEDULES, rules.paused(schedule, PauseReason.LOST_RIGHT, message=why))
            self._note(tx, schedule, why)
            return
        after, job = rules.fired(schedule, self._last(tx, schedule), self._clock.now())
        tx.update(SCHEDULES, after)
        if job is not None and tx.get(JOBS, job.id) is None:  # never twice, whatever went wrong before
            self._jobs.workers.take(tx, job.project, job.spec.num_workers)
            self._jobs.take_in(tx, job)
        self._note(tx, schedule, after.message or f"began {after.last_job}")

    def _refused(self, tx: Transaction, schedule: Schedule, why: str) -> None:
        """A slot whose job is refused for what it is (a budget, a quota) goes by, and says so."""
        if not _is_as_read(tx, schedule):
            return
        after, _ = rules.fired(schedule, self._last(tx, schedule), self._clock.now())
        tx.update(SCHEDULES, changed(schedule, {"next_at": after.next_at, "message": why}))
        self._note(tx, schedule, why)

    def _note(self, tx: Transaction, schedule: Schedule, message: str) -> None:
        self._outbox.publish(tx, schedule.project, schedule.id, Noted(message=message))


def _is_as_read(tx: Transaction, schedule: Schedule) -> bool:
    """Nobody has changed or deleted it meanwhile; otherwise the next round looks again."""
    return tx.get(SCHEDULES, schedule.id) == schedule
