"""How much one project may have open at once: what keeps one tenant from filling the queue, the store and the loops of all."""

from typing import TypeVar

from skyloom.ports.store import Collection, Record, Snapshot, Where
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import TooManyInProject
from skyloom.rooms.jobs.ports import TASKS

N = TypeVar("N", bound=Record)

MAX_WORKERS, MAX_ARRAYS, MAX_SCHEDULES = 100_000, 10_000, 10_000


def check_number(
    view: Snapshot, collection: Collection[N], where: Where, most: int, noun: str, next_action: str
) -> None:
    """Raise `TooManyInProject` when there are as many as there may be; ``where`` names the project, ``noun`` what is counted."""
    if view.count(collection, where) >= most:
        raise TooManyInProject(f"The project may have {most:,} {noun}, and has them.", next_action=next_action)


class OpenWorkers:
    """How many more workers a project may have that wait or run.

    They are counted only when those that were granted since the last count could be the last: so a submission costs no count. What is
    granted and not used (its transaction failed, or they have ended) is found free by the next count. The jobs that loops make for
    what was let in before (replicas, gateways) count, and are never refused.

    Args:
        most: workers of a project; a job of one worker is one.
    """

    def __init__(self, most: int = MAX_WORKERS) -> None:
        self._most = most
        self._left: dict[str, int] = {}

    def grant(self, view: Snapshot, project: str, num_jobs: int, num_workers: int) -> int:
        """Take room for so many jobs of so many workers; returns for how many of them there is room. To be asked inside a transaction."""
        left = self._left.get(project, 0)
        if left < num_jobs * num_workers:
            left = max(0, self._most - view.count(TASKS, {"project": project, "state": rules.LIVE}))
        granted = min(num_jobs, left // num_workers)
        self._left[project] = left - granted * num_workers
        return granted

    def take(self, view: Snapshot, project: str, num_workers: int) -> None:
        """Take room for one job. Raises `TooManyInProject`."""
        if not self.grant(view, project, 1, num_workers):
            raise self._refusal(num_workers)

    def check(self, num_workers: int) -> None:
        """Raise `TooManyInProject` for a job that is too large even for a project that has nothing else."""
        if num_workers > self._most:
            raise self._refusal(num_workers)

    def _refusal(self, num_workers: int) -> TooManyInProject:
        return TooManyInProject(
            f"The project may have {self._most:,} workers that wait or run; with the {num_workers:,} of this job it would"
            " have more.",
            next_action="Wait until some have ended, or cancel some (skyloom job list --live); many alike are one array.",
        )
