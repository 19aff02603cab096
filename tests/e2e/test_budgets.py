"""Budgets on a real control plane: jobs that write checkpoints, stop in time, and never cost more than they may."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from skyloom.core.errors import Unavailable
from skyloom.core.money import Money
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.cost import rules, tallies
from skyloom.rooms.cost.budget import BudgetExhausted, BudgetState, BudgetUnclear, Period
from skyloom.rooms.cost.model import CostBy
from skyloom.rooms.cost.ports import LEDGER, PLEDGES, RESERVATIONS, TALLIES
from skyloom.rooms.cost.usage import Usage
from skyloom.rooms.jobs.model import JobSpec, JobState, JobStatus, Reason
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_file
from skyloom.sdk.http import HttpTransport
from skyloom.stored import COLLECTIONS, LOGS
from skyloom.stores.sqlite import SqliteStore
from tests.control_plane import ControlPlane
from tests.crashing import STRIDE
from tests.inference.serving import write_bundle

A = TypeVar("A")
# A tenth of a CPU costs one cent in a second.
PRICES = {
    "SKYLOOM_PRICE_CPU_USD_PER_HOUR": "360",
    "SKYLOOM_PRICE_MEMORY_GIB_USD_PER_HOUR": "0",
    "SKYLOOM_PRICE_GPU_USD_PER_HOUR": "0",
}
TENTH = Resources(cpus=0.1, memory_bytes=2**26)
# Counts its steps, and writes where it is when it is asked to stop.
STEPS = """
import os, pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
place = pathlib.Path(os.environ["SKYLOOM_SHARED_FOLDER"], "checkpoint")
step = int(place.read_text()) if place.exists() else 0
print("from step", step, flush=True)
while not asked:
    time.sleep(0.05)
    step += 1
place.write_text(str(step))
print("saved at step", step, flush=True)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path / "home", forked=True, **PRICES).start().ready()
    yield plane
    plane.end_everything()


def job(code: str, cents: float | None = None, grace_s: float = 1.0, **options: object) -> JobSpec:
    return JobSpec(
        entry=Command(argv=(sys.executable, "-c", code)),
        resources=TENTH,
        grace_s=grace_s,
        budget_usd=None if cents is None else cents / 100,
        **options,  # type: ignore[arg-type]
    )


def cents_of(cloud: Client, job_id: str) -> float:
    (row,) = [row for row in cloud.costs.get(by="job").rows if row.name == job_id]
    return row.cost.usd * 100


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stopped(status: JobStatus) -> bool:
    return (status.state, status.reason) == (JobState.CANCELLED, Reason.BUDGET_EXHAUSTED)


def test_job_with_a_few_cents_writes_its_checkpoint_and_stops_in_time(plane: ControlPlane) -> None:
    with plane.client() as cloud:
        polite = cloud.jobs.submit(job(STEPS, cents=4)).job.id
        deaf = cloud.jobs.submit(job(DEAF, cents=4)).job.id
        for job_id in (polite, deaf):
            ended = cloud.jobs.wait(job_id, timeout_s=30)
            assert stopped(ended), ended
            assert "Its own budget is used up" in ended.message
            assert ended.next_action
            assert 2 < cents_of(cloud, job_id) <= 4
        assert "saved at step" in "".join(cloud.jobs.follow(polite))
        saved = int((plane.home / "shared" / polite / "checkpoint").read_text())
        assert 30 < saved < 80
        assert cents_of(cloud, deaf) > cents_of(cloud, polite)  # it used its grace, which was set aside
        told = cloud.overview.why(polite)
        assert (told.reason, "Raise the budget" in told.next_action) == ("budget_exhausted", True)


def test_budget_survives_the_control_plane_and_is_kept_to_by_the_next_one(plane: ControlPlane) -> None:
    with plane.client() as cloud:
        cloud.budgets.set(usd=0.06)
        first = cloud.jobs.submit(job(STEPS)).job.id
        wait_for(lambda: cloud.jobs.get(first).started_at is not None)
    plane.kill()
    plane.start().ready()
    with plane.client() as cloud:
        ended = cloud.jobs.wait(first, timeout_s=30)
        assert stopped(ended), ended
        assert "The budget of project default" in ended.message
        assert 3 < cents_of(cloud, first) <= 6
        with pytest.raises(BudgetExhausted, match="does not pay for this job"):
            cloud.jobs.submit(job(STEPS, max_duration_s=60))
        (status,) = cloud.budgets.list().items
        assert status.state is BudgetState.EXHAUSTED
        assert status.reserved == Money(0)
        alerts = {alert.threshold: alert for alert in cloud.alerts.list().items}
        assert sorted(alerts) == [0.5, 0.8, 1.0]
        assert alerts[1.0].endpoint_name == "The budget of project default"
        assert "skyloom cost" in cloud.overview.why(alerts[1.0].id).next_action
        assert cloud.overview.status().counts["alerts"] == {"firing": 3}
        raised = cloud.budgets.set(usd=1.0)
        assert raised.state is BudgetState.WITHIN
        assert cloud.overview.status().counts["alerts"] == {}
        again = cloud.jobs.submit(job(STEPS, max_duration_s=1)).job.id
        assert cloud.jobs.wait(again, timeout_s=30).reason is Reason.TIME_LIMIT


def test_own_budget_is_kept_to_while_no_control_plane_runs(plane: ControlPlane) -> None:
    with plane.client() as cloud:
        jobs = [cloud.jobs.submit(job(code, cents=4)).job.id for code in (STEPS, DEAF)]
        wait_for(lambda: all(cloud.jobs.get(key).started_at is not None for key in jobs))
    plane.kill()
    for job_id in jobs:
        wait_for((plane.home / "engine" / f"{job_id}.1.0" / "exit.json").exists)
    plane.start().ready()
    with plane.client() as cloud:
        for job_id in jobs:
            ended = cloud.jobs.wait(job_id, timeout_s=30)
            assert (ended.state, ended.reason) == (JobState.FAILED, Reason.BUDGET_EXHAUSTED), ended
            assert 2 < cents_of(cloud, job_id) <= 4
        assert (plane.home / "shared" / jobs[0] / "checkpoint").exists()


def test_two_projects_spend_each_their_own(plane: ControlPlane) -> None:
    with plane.client() as cloud:
        cloud.projects.create("other")
        other = Client(HttpTransport(plane.url, plane.token, "other"))
        cloud.budgets.set(usd=0.04, period=Period.MONTH)
        poor = cloud.jobs.submit(job(STEPS)).job.id
        rich = other.jobs.submit(job(STEPS)).job.id
        assert stopped(cloud.jobs.wait(poor, timeout_s=30))
        assert other.jobs.get(rich).state is JobState.RUNNING
        other.budgets.set(usd=0.01)  # it has spent more already
        ended = other.jobs.wait(rich, timeout_s=30)
        assert stopped(ended)
        assert "project other" in ended.message
        assert other.budgets.list().items[0].budget.project == "other"
        other.close()


def test_submission_that_no_budget_pays_for_is_refused_for_what_it_is(plane: ControlPlane) -> None:
    with plane.client() as cloud:
        for cents in (0, 2):
            with pytest.raises(BudgetExhausted, match="could never run"):
                cloud.jobs.submit(job(STEPS, cents=cents))
        for wrong in (float("nan"), float("inf"), -1.0):
            with pytest.raises(BudgetUnclear):
                cloud.jobs.submit(job(STEPS, cents=wrong))
            with pytest.raises(BudgetUnclear):
                cloud.budgets.set(usd=wrong)
        with pytest.raises(BudgetUnclear):
            cloud.budgets.set()
        response = cloud.transport._client.put(  # type: ignore[attr-defined]
            "/v1/projects/default/budgets", json={"limits": {}}
        )
        assert (response.status_code, response.json()["code"]) == (422, "budget_unclear")
        cloud.budgets.set(usd=0.1, user="owner")
        with pytest.raises(BudgetExhausted, match="The budget of user owner"):
            cloud.jobs.submit(job(STEPS, max_duration_s=60))
        assert cloud.jobs.list().items == ()


def test_replicas_that_no_budget_pays_for_stop_and_their_endpoint_says_why(plane: ControlPlane, tmp_path: Path) -> None:
    with plane.client() as cloud:
        bundle = write_bundle(tmp_path / "bundle")
        manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
        for file in manifest.files:
            upload_file(cloud.transport, bundle / file.path)
        cloud.transport.send(RegisterModelVersion(model="toy", manifest=manifest))
        cloud.endpoints.deploy("toy", num_replicas=1, cpus=0.1, memory="512MiB")
        cloud.endpoints.wait("toy", timeout_s=60)
        cloud.budgets.set(usd=0.01)
        wait_for(lambda: "budget of project default" in cloud.endpoints.get("toy").message)
        ends = {status.reason for status in cloud.jobs.list().items if status.state is JobState.CANCELLED}
        assert ends == {Reason.BUDGET_EXHAUSTED}
        with pytest.raises(BudgetExhausted):
            cloud.endpoints.deploy("toy", name="another", cpus=0.1, memory="512MiB")
        models = {row.name: row for row in cloud.costs.get(by="model").rows}
        assert models["toy"].cost.nano_usd > 0


def check_books(home: Path) -> int:
    """The sums are those of the ledger, every task is in it once, nothing is promised to what is over."""
    store = SqliteStore(home / "skyloom.db", COLLECTIONS, LOGS)
    try:
        entries = [entry for _, entry in store.read(lambda view: view.entries(LEDGER, limit=10_000))]
        total = sum((rules.usage_of(entry) for entry in entries), Usage())
        assert store.read(lambda view: tallies.ever(view, "default", CostBy.PROJECT, "default")) == total
        kept = store.read(lambda view: {tally.id: tally.usage for tally in view.select(TALLIES)})
        store.write(tallies.rebuild)
        assert store.read(lambda view: {tally.id: tally.usage for tally in view.select(TALLIES)}) == kept
        assert len({entry.task_id for entry in entries}) == len(entries)
        assert store.read(lambda view: view.select(RESERVATIONS)) == []
        assert all(pledge.left.nano_usd == 0 for pledge in store.read(lambda view: view.select(PLEDGES)))
    finally:
        store.close()
    return len(entries)


class Patient:
    """A client that never gives up: it starts the control plane again when it dies, and repeats what got no answer."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.crashes = 0

    def ask(self, question: Callable[[Client], A]) -> A:
        while True:
            if not self.plane.alive:
                self.crashes += 1
                self.plane.start(SKYLOOM_CRASH_AT="").ready()
            try:
                with self.plane.client(0.3) as cloud:
                    return question(cloud)
            except (Unavailable, AssertionError):
                if not self.plane.ends(within_s=2):  # a killed process takes a moment to be gone
                    raise

    def submit(self, name: str, spec: JobSpec) -> str:
        return self.ask(lambda cloud: cloud.jobs.submit(spec, key=name)).job.id

    def wait(self, job_id: str) -> JobStatus:
        return self.ask(lambda cloud: cloud.jobs.wait(job_id, timeout_s=30))


def live_through(home: Path, crash_at: str) -> int:
    """Jobs that stop at a budget, end, and run as a gang, with a control plane that dies once; returns how often it did."""
    plane = ControlPlane(home, forked=True, **PRICES).start(SKYLOOM_CRASH_AT=crash_at)
    patient = Patient(plane)
    try:
        wait_for(lambda: not plane.alive or plane.record is not None)
        patient.ask(lambda cloud: cloud.budgets.set(usd=5.0))
        own = patient.submit("own", job(STEPS, cents=3))
        others = [patient.submit("short", job("pass")), patient.submit("gang", job("pass", num_workers=2))]
        assert (
            patient.wait(own).reason is Reason.BUDGET_EXHAUSTED
        )  # by the control plane or, while there was none, its machine
        assert all(patient.wait(key).state is JobState.SUCCEEDED for key in others)
        assert patient.ask(lambda cloud: cents_of(cloud, own)) <= 3
    finally:
        plane.end_everything()
    assert check_books(home) == 4
    return patient.crashes


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("phase", ["before", "after"])
def test_control_plane_killed_around_settlement_keeps_the_books_exact(tmp_path: Path, phase: str) -> None:
    kills, commit = 0, 3 if phase == "before" and STRIDE == 2 else 2
    while crashes := live_through(tmp_path / f"home{commit}", f"{phase}:{commit}"):
        kills, commit = kills + crashes, commit + STRIDE
    print(f"{phase}: {kills} kills, every nano-dollar where it belongs")
    assert kills >= 6 // STRIDE
