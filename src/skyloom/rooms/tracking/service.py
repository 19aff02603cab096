"""The service of tracking: makes runs, takes measurements in, shows both. A run's state is its job's."""

from functools import partial

from skyloom.core.operation import Caller, Done, Page
from skyloom.ports.door import Handlers, Query
from skyloom.ports.lookup import listed, owned
from skyloom.ports.series import Series
from skyloom.ports.store import Snapshot, Store
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.tracking import model
from skyloom.rooms.tracking.model import Run
from skyloom.rooms.tracking.ports import RUNS


class Tracking:
    """Runs of all projects. `rooms.training` inserts them, together with their jobs."""

    def __init__(self, store: Store, series: Series, jobs: Jobs) -> None:
        self._store = store
        self._series = series
        self._jobs = jobs

    def handlers(self) -> Handlers:
        return {
            # No decision record changes, so this takes no turn in the store; the series itself makes repeats harmless.
            model.LogMeasurements: Query(self.log),
            model.GetRun: Query(self.get),
            model.ListRuns: Query(self.list),
            model.GetSeries: Query(self.series),
        }

    def log(self, ask: model.LogMeasurements, by: Caller) -> Done:
        run = self._store.read(lambda view: self.find(view, ask.run_id, by.project))
        if by.task_id and not by.is_task_of(run.job_id):
            raise model.RunMissing(
                f"There is no run {ask.run_id} for this task.", next_action="A task may only report to its own run."
            )
        self._series.append(run.id, ask.source, ask.sequence, ask.points)
        return Done()

    def find(self, view: Snapshot, run_id: str, project: str) -> Run:
        """Return a run of a project. Raises `RunMissing`."""
        run = owned(view, RUNS, run_id, project)
        if run is None:
            raise model.RunMissing(f"There is no run {run_id}.", next_action="List yours: skyloom run list.")
        return run

    def get(self, ask: model.GetRun, by: Caller) -> model.RunProgress:
        return self._store.read(lambda view: self._progress(view, self.find(view, ask.run_id, by.project)))

    def list(self, ask: model.ListRuns, by: Caller) -> Page[model.RunProgress]:
        where = {"project": by.project} | ({"dataset": ask.dataset} if ask.dataset else {})
        return self._store.read(lambda view: listed(view, RUNS, where, ask).shown(partial(self._progress, view)))

    def series(self, ask: model.GetSeries, by: Caller) -> model.SeriesSlice:
        run = self._store.read(lambda view: self.find(view, ask.run_id, by.project))
        points = self._series.points(run.id, ask.name, after_step=ask.after_step, limit=ask.limit)
        return model.SeriesSlice(run_id=run.id, points=tuple(points))

    def _progress(self, view: Snapshot, run: Run) -> model.RunProgress:
        status = self._jobs.status(view, run.job_id, run.project)
        return model.RunProgress(
            run=run, state=status.state, message=status.message, latest=self._series.latest(run.id)
        )
