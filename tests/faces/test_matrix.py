"""The object matrix: every operation × everything of another project × every role. What is theirs looks as if it were not there.

A new operation without a line here fails the test.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import pytest

from skyloom.core.errors import Category
from skyloom.core.operation import Operation, Right
from skyloom.core.resources import Resources
from skyloom.operations import OPERATIONS
from skyloom.ports.engine import Command
from skyloom.rooms.arrays import model as arrays
from skyloom.rooms.batch import model as batch
from skyloom.rooms.cost import budget
from skyloom.rooms.cost.model import GetCost, GetOutlook, ListPrices, SetPrices
from skyloom.rooms.data import model as data
from skyloom.rooms.data.contents import Contents
from skyloom.rooms.data.making import Clean, Deduplicate, Format, Ingest, SourceFile, Split
from skyloom.rooms.devices import messages
from skyloom.rooms.devices import model as devices
from skyloom.rooms.devices import rollout as rollouts
from skyloom.rooms.functions import model as functions
from skyloom.rooms.jobs import model as jobs
from skyloom.rooms.lineage.model import GetLineage, GetRowLineage
from skyloom.rooms.monitoring import model as monitoring
from skyloom.rooms.overview.model import GetStatus, Why
from skyloom.rooms.planning import model as planning
from skyloom.rooms.pools import model as pools
from skyloom.rooms.quality import model as quality
from skyloom.rooms.registry import model as registry
from skyloom.rooms.registry.bundle import BundleFile, Manifest
from skyloom.rooms.sampling import model as sampling
from skyloom.rooms.schedules import model as schedules
from skyloom.rooms.scheduling import rulebook as scheduling
from skyloom.rooms.secrets import model as secrets
from skyloom.rooms.serving import change, judging
from skyloom.rooms.serving import model as serving
from skyloom.rooms.serving.routes import RouteTraffic
from skyloom.rooms.serving.split import TrafficSplit
from skyloom.rooms.templates import model as templates
from skyloom.rooms.tenancy import model as tenancy
from skyloom.rooms.tenancy.rules import RIGHTS
from skyloom.rooms.tracking import model as tracking
from skyloom.rooms.training.model import Train
from skyloom.rooms.triggers import model as triggers
from skyloom.rooms.webhooks import model as webhooks
from tests.faces.foreign import CSV, OURS, THEIRS, TRIAL, World, start
from tests.inference.serving import TOY_SIGNATURE

pytestmark = pytest.mark.slow
Ids = Mapping[str, str]
Asks = Callable[[Ids], list[Operation[Any]]]
ROLES = ("viewer", "predictor", "editor", "admin", "task")
ZERO = "sha256:" + "0" * 64
CONTENTS = Contents(num_rows=1, columns=(), digest=ZERO)
COMMAND = jobs.JobSpec(entry=Command(argv=("true",)), resources=Resources(cpus=0.1, memory_bytes=2**26))

FOREIGN: dict[type[Operation[Any]], Asks] = {
    Why: lambda ids: [
        Why(subject=ids[noun])
        for noun in ("job", "plan", "array", "schedule", "dataset", "endpoint", "alert", "budget")
    ],
    tenancy.RevokeToken: lambda ids: [tenancy.RevokeToken(token_id=ids["token"])],
    monitoring.ListAlerts: lambda ids: [
        monitoring.ListAlerts(endpoint=name) for name in (ids["endpoint"], "secret-ep")
    ],
    monitoring.AcknowledgeAlert: lambda ids: [monitoring.AcknowledgeAlert(alert_id=ids["alert"])],
    monitoring.GetMonitor: lambda ids: [monitoring.GetMonitor(name=name) for name in (ids["endpoint"], "secret-ep")],
    monitoring.SetAlertRules: lambda ids: [monitoring.SetAlertRules(name=ids["endpoint"], rules=())],
    webhooks.DeleteWebhook: lambda ids: [webhooks.DeleteWebhook(webhook_id=ids["webhook"])],
    budget.GetBudget: lambda ids: [budget.GetBudget(budget_id=ids["budget"])],
    budget.DeleteBudget: lambda ids: [budget.DeleteBudget(budget_id=ids["budget"])],
    jobs.GetJob: lambda ids: [jobs.GetJob(job_id=ids["job"])],
    jobs.CancelJob: lambda ids: [jobs.CancelJob(job_id=ids["job"])],
    jobs.RerunJob: lambda ids: [jobs.RerunJob(job_id=ids["job"])],
    arrays.GetArray: lambda ids: [arrays.GetArray(array_id=ids["array"])],
    arrays.CancelArray: lambda ids: [arrays.CancelArray(array_id=ids["array"])],
    arrays.ReadArrayResults: lambda ids: [arrays.ReadArrayResults(array_id=ids["array"])],
    templates.GetTemplate: lambda _: [templates.GetTemplate(name="secret-template")],
    secrets.DeleteSecret: lambda _: [secrets.DeleteSecret(name="secret-password")],
    schedules.GetSchedule: lambda _: [schedules.GetSchedule(name="secret-schedule")],
    schedules.PauseSchedule: lambda _: [schedules.PauseSchedule(name="secret-schedule")],
    schedules.ResumeSchedule: lambda _: [schedules.ResumeSchedule(name="secret-schedule")],
    schedules.DeleteSchedule: lambda _: [schedules.DeleteSchedule(name="secret-schedule")],
    jobs.ReadLog: lambda ids: [jobs.ReadLog(job_id=ids["job"])],
    jobs.OpenExec: lambda ids: [jobs.OpenExec(job_id=ids["job"], argv=("id",))],
    jobs.OpenPort: lambda ids: [jobs.OpenPort(job_id=ids["job"], port=80)],
    jobs.ReadResult: lambda ids: [jobs.ReadResult(job_id=ids["job"])],
    registry.SetAlias: lambda _: [registry.SetAlias(model="secret-model", alias="champion", number=1)],
    registry.GetModel: lambda _: [registry.GetModel(model="secret-model")],
    registry.GetModelVersion: lambda _: [registry.GetModelVersion(model="secret-model", reference="1")],
    serving.Deploy: lambda ids: [
        serving.Deploy(model="secret-model"),
        serving.Deploy(model="secret-model", version=ids["version"], name="secret-ep"),
    ],
    serving.GetEndpoint: lambda ids: [serving.GetEndpoint(name=name) for name in (ids["endpoint"], "secret-ep")],
    serving.PackModels: lambda ids: [serving.PackModels(name=name) for name in (ids["endpoint"], "secret-ep")],
    serving.StopEndpoint: lambda ids: [serving.StopEndpoint(name=name) for name in (ids["endpoint"], "secret-ep")],
    serving.ReportTraffic: lambda ids: [
        serving.ReportTraffic(
            name=ids["endpoint"],
            replica=ids["replica"],
            revision=ids["revision"],
            ready=True,
            traffic=monitoring.Traffic(requests=9),
        )
    ],
    serving.ReportRoutes: lambda ids: [
        serving.ReportRoutes(gateway="gw_1", ready=True, routes=(RouteTraffic(endpoint=ids["endpoint"], arrived=9),))
    ],
    change.SetSplit: lambda ids: [
        change.SetSplit(name=name, split=TrafficSplit(shares={1: 1.0})) for name in (ids["endpoint"], "secret-ep")
    ],
    change.RollBack: lambda ids: [change.RollBack(name=name) for name in (ids["endpoint"], "secret-ep")],
    change.PromoteCanary: lambda ids: [change.PromoteCanary(name=name) for name in (ids["endpoint"], "secret-ep")],
    change.AbortCanary: lambda ids: [change.AbortCanary(name=name) for name in (ids["endpoint"], "secret-ep")],
    change.CompareRevisions: lambda ids: [
        change.CompareRevisions(name=name) for name in (ids["endpoint"], "secret-ep")
    ],
    batch.RunPredictions: lambda ids: [
        batch.RunPredictions(order=batch.BatchOrder(dataset=name, model="secret-model", to="said"))
        for name in (ids["dataset"], "secret-data")
    ],
    batch.BeginPredictions: lambda ids: [
        batch.BeginPredictions(order=batch.BatchOrder(dataset=name, model="secret-model", to="said"))
        for name in (ids["dataset"], "secret-data")
    ],
    judging.GetQuality: lambda ids: [judging.GetQuality(name=name) for name in (ids["endpoint"], "secret-ep")],
    sampling.LogTo: lambda ids: [sampling.LogTo(name=name, dataset="taken") for name in (ids["endpoint"], "secret-ep")],
    sampling.GetSampling: lambda ids: [sampling.GetSampling(name=name) for name in (ids["endpoint"], "secret-ep")],
    sampling.CollectSamples: lambda ids: [
        sampling.CollectSamples(name=name) for name in (ids["endpoint"], "secret-ep")
    ],
    sampling.LogOff: lambda ids: [sampling.LogOff(name=name) for name in (ids["endpoint"], "secret-ep")],
    quality.ListFeedback: lambda ids: [quality.ListFeedback(name=name) for name in (ids["endpoint"], "secret-ep")],
    quality.GiveFeedback: lambda ids: [
        quality.GiveFeedback(name=name, labels=(quality.LabelGiven(prediction_id=ids["prediction"], label="0"),))
        for name in (ids["endpoint"], "secret-ep")
    ],
    serving.FindPrediction: lambda ids: [serving.FindPrediction(prediction_id=ids["prediction"])],
    functions.DeployFunction: lambda _: [functions.DeployFunction(name="secret-model", version=1)],
    triggers.CreateTrigger: lambda _: [
        triggers.CreateTrigger(name="own", when=triggers.When(kind=triggers.Happening.JOB_ENDED), run=run)
        for run in (
            triggers.RunFunction(function="secret-function"),
            triggers.RunTemplateJob(template="secret-template"),
            triggers.RunBatch(order=batch.BatchOrder(dataset="secret-data", model="secret-model", to="said")),
        )
    ],
    triggers.GetTrigger: lambda _: [triggers.GetTrigger(name="secret-trigger")],
    triggers.PauseTrigger: lambda _: [triggers.PauseTrigger(name="secret-trigger")],
    triggers.ResumeTrigger: lambda _: [triggers.ResumeTrigger(name="secret-trigger")],
    triggers.Redeliver: lambda _: [triggers.Redeliver(name="secret-trigger", number=1)],
    triggers.DeleteTrigger: lambda _: [triggers.DeleteTrigger(name="secret-trigger")],
    functions.GetFunction: lambda _: [functions.GetFunction(name="secret-function")],
    functions.DeleteFunction: lambda _: [functions.DeleteFunction(name="secret-function")],
    functions.InvokeFunction: lambda _: [functions.InvokeFunction(name="secret-function")],
    functions.GetInvocation: lambda ids: [functions.GetInvocation(invocation_id=ids["invocation"])],
    functions.RetryInvocation: lambda ids: [functions.RetryInvocation(invocation_id=ids["invocation"])],
    devices.GetDevice: lambda ids: [devices.GetDevice(name=name) for name in (ids["device"], "secret-device")],
    devices.RetireDevice: lambda ids: [devices.RetireDevice(name=name) for name in (ids["device"], "secret-device")],
    devices.ListSamples: lambda ids: [devices.ListSamples(name=name) for name in (ids["device"], "secret-device")],
    messages.JoinDevice: lambda ids: [messages.JoinDevice(device=ids["device"], nonce="0" * 32)],
    messages.SyncDevice: lambda ids: [messages.SyncDevice(device=ids["device"], now=1.0, epoch="e")],
    messages.UploadOutbox: lambda ids: [
        messages.UploadOutbox(
            device=ids["device"], epoch="e", lane=messages.Lane.FACTS, oldest=0, first=0, now=1.0, records=()
        )
    ],
    rollouts.CreateRollout: lambda _: [rollouts.CreateRollout(model="secret-model")],
    rollouts.GetRollout: lambda ids: [rollouts.GetRollout(rollout_id=ids["rollout"])],
    rollouts.PauseRollout: lambda ids: [rollouts.PauseRollout(rollout_id=ids["rollout"])],
    rollouts.ResumeRollout: lambda ids: [rollouts.ResumeRollout(rollout_id=ids["rollout"])],
    rollouts.AbortRollout: lambda ids: [rollouts.AbortRollout(rollout_id=ids["rollout"])],
    tracking.LogMeasurements: lambda ids: [
        tracking.LogMeasurements(run_id=ids["run"], source="task", sequence=1, points=())
    ],
    tracking.GetRun: lambda ids: [tracking.GetRun(run_id=ids["run"])],
    tracking.ListRuns: lambda _: [tracking.ListRuns(dataset="secret-data")],
    tracking.GetSeries: lambda ids: [tracking.GetSeries(run_id=ids["run"])],
    Train: lambda _: [Train(recipe="tabular", dataset="secret-data", target="kind")],
    planning.GetPlan: lambda ids: [planning.GetPlan(plan_id=ids["plan"])],
    planning.FollowPlan: lambda ids: [planning.FollowPlan(plan_id=ids["plan"], run_id=ids["run"])],
    data.CleanDataset: lambda ids: [
        data.CleanDataset(dataset=name, making=Clean(steps=(Deduplicate(),)))
        for name in (ids["dataset"], "secret-data")
    ],
    data.SplitDataset: lambda ids: [
        data.SplitDataset(dataset=name, making=Split()) for name in (ids["dataset"], "secret-data")
    ],
    data.GetDraft: lambda ids: [data.GetDraft(draft_id=ids["draft"])],
    data.CommitVersion: lambda ids: [data.CommitVersion(draft_id=ids["draft"], number=1, contents=CONTENTS)],
    data.FailDraft: lambda ids: [
        data.FailDraft(draft_id=ids["draft"], code="x", category=Category.INVALID, message="no")
    ],
    data.GetDataset: lambda ids: [data.GetDataset(dataset=name) for name in (ids["dataset"], "secret-data")],
    data.ListVersions: lambda ids: [data.ListVersions(dataset=name) for name in (ids["dataset"], "secret-data")],
    data.GetVersion: lambda ids: [data.GetVersion(dataset=name) for name in (ids["dataset"], "secret-data")],
    data.HeadRows: lambda ids: [data.HeadRows(dataset=name) for name in (ids["dataset"], "secret-data")],
    data.TagVersion: lambda ids: [data.TagVersion(dataset=ids["dataset"], number=1, tag="best")],
    GetLineage: lambda ids: [
        GetLineage(subject_id=name)
        for name in (
            *(ids[noun] for noun in ("endpoint", "revision", "version", "run", "prediction")),
            "secret-model:1",
        )
    ],
    GetRowLineage: lambda _: [GetRowLineage(dataset="secret-data", row_id=0)],
}
# Lists and sums; and operations that name nothing which exists already (names are each project's own).
OWN: dict[type[Operation[Any]], Operation[Any]] = {
    GetStatus: GetStatus(),
    tenancy.CreateProject: tenancy.CreateProject(name="third"),
    tenancy.ListProjects: tenancy.ListProjects(),
    tenancy.CreateToken: tenancy.CreateToken(name="another"),
    tenancy.ListTokens: tenancy.ListTokens(),
    tenancy.ListAudit: tenancy.ListAudit(),
    GetCost: GetCost(),
    GetOutlook: GetOutlook(),
    SetPrices: SetPrices(pool="local", cpu_usd_per_hour=0.01),
    ListPrices: ListPrices(),
    budget.SetBudget: budget.SetBudget(limits=budget.Allowance(usd=1e6)),
    budget.ListBudgets: budget.ListBudgets(),
    webhooks.CreateWebhook: webhooks.CreateWebhook(url="https://93.184.215.14/hook", kinds=(webhooks.NewsKind.BUDGET,)),
    webhooks.ListWebhooks: webhooks.ListWebhooks(),
    jobs.SubmitJob: jobs.SubmitJob(spec=COMMAND),
    jobs.ListJobs: jobs.ListJobs(),
    pools.AddPool: pools.AddPool(name="cluster", address="ray://127.0.0.1:1"),
    pools.GetPool: pools.GetPool(name="local"),
    pools.ListPools: pools.ListPools(),
    pools.RemovePool: pools.RemovePool(name="local"),
    scheduling.GetScheduling: scheduling.GetScheduling(),
    scheduling.SetScheduling: scheduling.SetScheduling(min_run_s=60.0),
    scheduling.GetQuota: scheduling.GetQuota(name=OURS),
    scheduling.SetQuota: scheduling.SetQuota(name=OURS, weight=2.0),
    arrays.SubmitArray: arrays.SubmitArray(spec=COMMAND, size=2),
    arrays.ListArrays: arrays.ListArrays(),
    templates.PlanTemplate: templates.PlanTemplate(name="own", jobs={"a": templates.TemplateJob(spec=COMMAND)}),
    templates.ApplyTemplate: templates.ApplyTemplate(name="own", jobs={"a": templates.TemplateJob(spec=COMMAND)}),
    templates.ListTemplates: templates.ListTemplates(),
    secrets.SetSecret: secrets.SetSecret(name="own-secret", value="x"),
    secrets.ListSecrets: secrets.ListSecrets(),
    schedules.CreateSchedule: schedules.CreateSchedule(name="own-schedule", cron="@yearly", spec=COMMAND),
    schedules.ListSchedules: schedules.ListSchedules(),
    registry.RegisterModelVersion: registry.RegisterModelVersion(
        model="secret-model",
        manifest=Manifest(signature=TOY_SIGNATURE, files=(BundleFile(path="model.onnx", digest=ZERO, size_bytes=1),)),
    ),
    planning.MakePlan: msgspec.convert(
        {"name": "own", "trials": [TRIAL], "aim": {"max_workers": 1}}, planning.MakePlan
    ),
    planning.ListPlans: planning.ListPlans(),
    planning.GetAccuracy: planning.GetAccuracy(),
    registry.ListModels: registry.ListModels(),
    serving.ListEndpoints: serving.ListEndpoints(),
    triggers.ListTriggers: triggers.ListTriggers(),
    functions.ListFunctions: functions.ListFunctions(),
    functions.ListInvocations: functions.ListInvocations(),
    devices.EnrolDevice: devices.EnrolDevice(name="own-device"),
    devices.ListDevices: devices.ListDevices(),
    devices.GatherSamples: devices.GatherSamples(dataset="own", model="own-model"),
    devices.RotateDeviceKey: devices.RotateDeviceKey(),
    rollouts.ListRollouts: rollouts.ListRollouts(),
    data.CreateDataset: data.CreateDataset(
        name="own", making=Ingest(sources=(SourceFile(path="d.csv", digest=ZERO),), format=Format.CSV)
    ),
    data.ListDatasets: data.ListDatasets(),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("matrix")
    plane = start(folder)
    try:
        made = World(plane, folder)
        yield made
        for project in (OURS, THEIRS):
            place = f"/v1/projects/{project}"
            for item in made.http.get(f"{place}/endpoints", headers=made.owner).json()["items"]:
                made.http.post(f"{place}/endpoints/{item['endpoint']['id']}/stop", json={}, headers=made.owner)
            for item in made.http.get(f"{place}/arrays", headers=made.owner).json()["items"]:
                made.http.post(f"{place}/arrays/{item['array']['id']}/cancel", json={}, headers=made.owner)
            for item in made.http.get(f"{place}/jobs?live=true", headers=made.owner).json()["items"]:
                job_id = item["job"]["id"]
                made.http.post(f"{place}/jobs/{job_id}/cancel", json={}, headers=made.owner)
        for project in (OURS, THEIRS):
            wait_until_idle(made, project)
    finally:
        plane.end_everything()


def wait_until_idle(world: World, project: str) -> None:
    """Wait until nothing of a project runs."""
    deadline = time.monotonic() + 40
    while world.http.get(f"/v1/projects/{project}/jobs?live=true&array=*", headers=world.owner).json()["items"]:
        assert time.monotonic() < deadline, "something still runs"
        time.sleep(0.05)


def test_every_operation_has_a_line_here() -> None:
    assert {kind.route.name for kind in OPERATIONS} == {kind.route.name for kind in (*FOREIGN, *OWN)}
    assert not FOREIGN.keys() & OWN.keys()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: kind.route.name)
def test_what_is_theirs_looks_as_if_it_were_absent(world: World, kind: type[Operation[Any]], role: str) -> None:
    may = kind.route.right in RIGHTS[tenancy.Role(role)]
    for ask in FOREIGN[kind](world.ids):
        foreign, absent = world.send(ask, role), world.send(world.absent(ask), role)
        assert foreign.status_code == absent.status_code
        assert world.hidden(foreign.text) == absent.text
        if not may:
            assert (foreign.status_code, foreign.json()["code"]) == (403, "right_missing")
        elif kind in (serving.ReportTraffic, serving.ReportRoutes):
            assert foreign.json()["code"] in ("not_a_replica", "not_a_gateway")
        elif kind is tracking.ListRuns:
            assert foreign.json()["items"] == []
        else:
            assert (foreign.status_code, foreign.json()["category"]) == (404, "not_found"), foreign.text


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: kind.route.name)
def test_their_project_looks_as_if_it_were_absent(world: World, kind: type[Operation[Any]], role: str) -> None:
    if kind.route.global_:
        return
    for ask in FOREIGN[kind](world.ids) if kind in FOREIGN else [OWN[kind]]:
        foreign, absent = world.send(ask, role, THEIRS), world.send(ask, role, "nobodys")
        assert foreign.status_code == absent.status_code == 404
        assert foreign.text.replace(THEIRS, "nobodys") == absent.text


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.route.name)
def test_lists_and_sums_show_nothing_of_theirs(world: World, kind: type[Operation[Any]], role: str) -> None:
    response = world.send(OWN[kind], role)
    route = kind.route
    may = route.right in RIGHTS[tenancy.Role(role)] and not (route.global_ and route.is_change)
    assert (response.status_code == 403) != may, response.text
    assert response.status_code < 500
    if kind is registry.RegisterModelVersion:
        return
    for known in (*world.ids.values(), "secret-", f'"{THEIRS}"'):
        assert known not in response.text


def test_rotating_keys_twice_is_refused_and_is_no_leak(world: World) -> None:
    world.send(devices.RotateDeviceKey(), "admin")
    assert world.send(devices.RotateDeviceKey(), "admin").json()["code"] == "rotation_under_way"


@pytest.mark.parametrize("place", (OURS, THEIRS))
def test_device_may_do_nothing_but_speak_for_itself(world: World, place: str) -> None:
    """Every operation with a device's own token and with a join code, in its project and in another."""
    for role, right in (("device", Right.DEVICE), ("join", Right.JOIN)):
        for kind in OPERATIONS:
            for ask in FOREIGN[kind](world.ids) if kind in FOREIGN else [OWN[kind]]:
                answer = world.send(ask, role, place)
                if kind.route.global_ or place == OURS:
                    expected = (404, "device_missing") if kind.route.right is right else (403, "right_missing")
                else:
                    expected = (404, "project_missing")
                assert (answer.status_code, answer.json()["code"]) == expected, (role, kind, answer.text)


def test_device_is_no_other_device_of_its_project(world: World) -> None:
    other = world.made_device(OURS, "neighbour")["device"]["id"]
    asks = [messages.SyncDevice(device=other, now=1.0, epoch="e"), messages.JoinDevice(device=other, nonce="0" * 32)]
    for ask, role in zip(asks, ("device", "join"), strict=True):
        assert world.send(ask, role).json()["code"] == "not_this_device"


def test_device_fetches_nothing_but_what_it_should_serve(world: World) -> None:
    for project, device in ((OURS, world.device), (OURS, world.ids["device"]), (THEIRS, world.ids["device"])):
        place = f"/v1/projects/{project}/devices/{device}/blobs/{world.ids['file']}"
        answer = world.http.get(place, headers={"authorization": f"Bearer {world.tokens['device']}"})
        assert answer.status_code == 404, answer.text
    for role, status in (("admin", 403), ("viewer", 403), ("join", 403)):
        place = f"/v1/projects/{OURS}/devices/{world.device}/blobs/{world.ids['file']}"
        answer = world.http.get(place, headers={"authorization": f"Bearer {world.tokens[role]}"})
        assert answer.status_code == status, (role, answer.text)


def test_viewer_sees_no_secret_of_the_project(world: World) -> None:
    secrets = set(world.tokens.values()) | {world.plane.token}
    for ask in OWN.values():
        assert not [secret for secret in secrets if secret in world.send(ask, "viewer").text]


def test_their_objects_are_untouched_after_all_that(world: World) -> None:
    place = f"/v1/projects/{THEIRS}"
    job = world.http.get(f"{place}/jobs/{world.ids['job']}", headers=world.owner).json()
    assert not job["job"].get("halt")
    model = world.http.get(f"{place}/models/secret-model", headers=world.owner).json()
    assert (model["model"]["newest"], model["model"]["aliases"]) == (1, {})
    assert not world.http.get(f"{place}/endpoints/secret-ep", headers=world.owner).json()["endpoint"]["stopped_by"]
    alerts = world.http.get(f"{place}/alerts", headers=world.owner).json()["items"]
    assert [alert["state"] for alert in alerts] == ["firing"]
    tokens = world.http.get(f"{place}/tokens", headers=world.owner).json()["items"]
    assert [token.get("revoked_at") for token in tokens] == [None]


def test_task_says_nothing_about_the_run_of_another_job(world: World) -> None:
    place = f"/v1/projects/{OURS}"
    script = world._uploaded(place, CSV)
    asked = {"script": "t.py", "files": {"t.py": script}, "resources": {"cpus": 0.1, "memory_bytes": 2**26}}
    run = world._made(f"{place}/trainings", asked)["run"]["id"]
    ask = tracking.LogMeasurements(run_id=run, source="task", sequence=1, points=())
    assert world.send(ask, "task").status_code == 404
    assert world.send(jobs.CancelJob(job_id=world.job), "task").status_code == 403
