"""Ids written short."""

import pytest

from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import CancelJob, GetJob, Job, JobSpec
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.overview.model import Why
from skyloom.rooms.tenancy.shortened import AmbiguousId, Shortened
from skyloom.stores.memory import MemoryStore
from tests.rooms.workshop import ANN

FIRST, SECOND = "job_01aaaaaaaaaaaaaaaaaaaaaaaa", "job_01abbbbbbbbbbbbbbbbbbbbbbb"
THEIRS = "job_01accccccccccccccccccccccc"


def shortened() -> Shortened:
    store = MemoryStore()
    spec = JobSpec(entry=Command(argv=("true",)))
    for key, project in ((FIRST, ANN.project), (SECOND, ANN.project), (THEIRS, "theirs")):
        job = Job(id=key, project=project, spec=spec, submitted_at=0.0, submitted_by="x")
        store.write(lambda tx, job=job: tx.insert(JOBS, job))  # type: ignore[misc]
    return Shortened(store, {"job": JOBS})


def test_beginning_that_only_one_has_stands_for_it() -> None:
    assert shortened().written_out(GetJob(job_id="job_01aa"), ANN) == GetJob(job_id=FIRST)
    assert shortened().written_out(CancelJob(job_id=SECOND[:-1]), ANN) == CancelJob(job_id=SECOND)
    assert shortened().written_out(Why(subject="job_01ab"), ANN) == Why(subject=SECOND)


def test_beginning_of_several_is_refused_naming_only_those_of_the_project() -> None:
    with pytest.raises(AmbiguousId) as error:
        shortened().written_out(GetJob(job_id="job_01a"), ANN)
    assert error.value.message == f"job_01a could be {FIRST}, {SECOND}."


@pytest.mark.parametrize("text", ["job_01ac", THEIRS, "job_zz", "run_01a", "job_", "job_01aa.1", "*"])
def test_what_is_not_a_beginning_in_the_project_stays(text: str) -> None:
    ask = GetJob(job_id=text)
    assert shortened().written_out(ask, ANN) == ask
