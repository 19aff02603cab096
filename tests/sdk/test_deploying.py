"""What a deployment leaves out is what the endpoint has, or what a new one gets."""

from types import SimpleNamespace

import pytest

from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.data.model import DraftState, GetDraft
from skyloom.rooms.jobs.model import GetJob, Job, JobSpec, JobState, JobStatus
from skyloom.rooms.registry.model import GetModelVersion
from skyloom.rooms.serving.model import Deploy, EndpointMissing, EndpointState, GetEndpoint
from skyloom.sdk.data import DataCalls
from skyloom.sdk.serving import EndpointCalls

FILES = (SimpleNamespace(size_bytes=100 * 2**20),)
VERSION = SimpleNamespace(manifest=SimpleNamespace(files=FILES))
HAS = SimpleNamespace(number=2, resources=Resources(cpus=2.0, gpus=1, memory_bytes=4 * 2**30))


class Asked:
    """A cloud with one endpoint, or none."""

    def __init__(self, *revisions: SimpleNamespace) -> None:
        self.revisions = revisions
        self.deployed: Deploy | None = None

    def send(self, ask: object) -> object:
        if isinstance(ask, GetEndpoint):
            if not self.revisions:
                raise EndpointMissing("There is none.", next_action="Make it.")
            return SimpleNamespace(revisions=self.revisions)
        if isinstance(ask, GetModelVersion):
            return VERSION
        assert isinstance(ask, Deploy)
        self.deployed = ask
        return None


@pytest.mark.parametrize(
    ("revisions", "given", "resources"),
    [
        ((), {}, None),
        ((), {"cpus": 2.0}, Resources(cpus=2.0, memory_bytes=812 * 2**20)),
        ((), {"memory": "1GiB"}, Resources(cpus=0.5, memory_bytes=2**30)),
        ((HAS,), {"cpus": 1.0}, Resources(cpus=1.0, gpus=1, memory_bytes=4 * 2**30)),
        ((HAS,), {"memory": "1GiB"}, Resources(cpus=2.0, gpus=1, memory_bytes=2**30)),
    ],
)
def test_one_resource_alone_leaves_the_others_as_they_are(revisions, given, resources) -> None:
    cloud = Asked(*revisions)
    EndpointCalls(cloud).deploy("smol", **given)
    assert cloud.deployed is not None and cloud.deployed.resources == resources


def test_endpoint_that_does_not_answer_is_said_to_be_what_it_is(monkeypatch) -> None:
    calls = EndpointCalls(SimpleNamespace())
    state = SimpleNamespace(state=EndpointState.CRASH_LOOP, message="Replicas ended 5 times.")
    monkeypatch.setattr(calls, "get", lambda name: state)
    assert "it is crash_loop: Replicas ended 5 times." in str(calls._silent("toy", "ConnectError"))
    state.state = EndpointState.READY
    assert "ConnectError" in str(calls._silent("toy", "ConnectError"))


def test_draft_whose_job_waits_is_told_of(monkeypatch) -> None:
    told, looks = [], iter([DraftState.WORKING, DraftState.DONE])
    draft = SimpleNamespace(id="d", job_id="job_a", dataset_id="ds", number=1)
    status = JobStatus(
        job=Job(id="job_a", project="p", spec=JobSpec(entry=Command(argv=("x",))), submitted_at=1.0, submitted_by="me"),
        state=JobState.QUEUED,
        message="needs 1 CPU, 0.5 free",
    )

    def send(ask, *_):
        if isinstance(ask, GetDraft):
            return SimpleNamespace(state=next(looks), draft=draft, error=None)
        return status if isinstance(ask, GetJob) else "version"

    monkeypatch.setattr("skyloom.sdk.jobs._SOON_S", -1.0)
    monkeypatch.setattr("skyloom.sdk.data.patient_with_job", lambda transport, *_: transport)
    begun = SimpleNamespace(draft=draft)
    assert DataCalls(SimpleNamespace(send=send)).finish(begun, tell=told.append) == "version"
    assert told == ["job job_a waits: needs 1 CPU, 0.5 free"]
