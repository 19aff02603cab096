"""How many jobs a project may have open, and who is refused, who waits."""

import pytest

from skyloom.core.operation import Caller
from skyloom.ports.engine import Command
from skyloom.rooms.jobs.bounds import OpenWorkers
from skyloom.rooms.jobs.model import CancelJob, JobSpec, SubmitJob, TooManyInProject
from tests.rooms.workshop import ANN, BOB, Workshop


class Yard(Workshop):
    """A workshop in which a project may have five workers."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs.workers = OpenWorkers(5)

    def submit(self, num_workers: int = 1, by: Caller = ANN, *, refuse: bool = True) -> str:
        ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), num_workers=num_workers))
        self.jobs.check(ask, by)
        return self.store.write(lambda tx: self.jobs.submit(tx, ask, by, refuse=refuse)).job.id


def test_project_has_so_many_workers_and_no_more_until_some_have_ended() -> None:
    yard = Yard()
    first = yard.submit(2)
    yard.submit(2)
    with pytest.raises(TooManyInProject, match="5 workers that wait or run; with the 2 of this job"):
        yard.submit(2)
    yard.submit(1)
    with pytest.raises(TooManyInProject):
        yard.submit()
    yard.submit(3, BOB)  # another project's are its own
    yard.store.write(lambda tx: yard.jobs.cancel(tx, CancelJob(job_id=first), ANN))
    yard.submit(2)
    with pytest.raises(TooManyInProject):
        yard.submit()


def test_job_that_is_larger_than_all_a_project_may_have_is_refused_when_it_is_checked() -> None:
    with pytest.raises(TooManyInProject):
        Yard().jobs.check(SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), num_workers=6)), ANN)


def test_what_loops_make_for_what_was_let_in_counts_and_is_not_refused() -> None:
    yard = Yard()
    yard.submit(3)
    yard.submit(2, refuse=False)
    yard.submit(1, refuse=False)
    yard.jobs.workers = OpenWorkers(5)  # another control plane counts what is there
    with pytest.raises(TooManyInProject):
        yard.submit()


def test_failed_submissions_use_up_no_room() -> None:
    yard = Yard()

    def fail(tx: object) -> None:
        yard.jobs.workers.take(tx, "p", 3)  # type: ignore[arg-type]
        raise RuntimeError("its transaction fails")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            yard.store.write(fail)
    yard.submit(4)
