"""The serving room: endpoints, replicas as jobs, reports, predictions, and a control plane that dies at every commit."""

import json

import msgspec
import pytest

from skyloom.core.operation import Caller, Right
from skyloom.core.resources import Resources
from skyloom.ports.engine import EndReason
from skyloom.rooms.jobs.model import ImpossibleRequest
from skyloom.rooms.registry.model import ModelMissing, ModelVersionMissing
from skyloom.rooms.serving.model import (
    EndpointMissing,
    EndpointState,
    FindPrediction,
    GetEndpoint,
    ListEndpoints,
    NotAReplica,
    ReplicaState,
)
from skyloom.rooms.serving.plan import ServePlan
from skyloom.rooms.serving.ports import REPLICAS, titles
from skyloom.rooms.serving.predictions import Prediction, PredictionExpired, PredictionMissing, name_prediction
from skyloom.rooms.tenancy.model import CreateToken, RevokeToken, Role
from tests.rooms.serving.bench import ME, Bench, Crash

STRANGER = Caller(principal="x", project="other", scope="other", rights=frozenset(Right))


@pytest.fixture
def bench():
    return Bench()


def replicas(bench):
    return bench.disk.read(lambda view: view.select(REPLICAS))


def test_deploy_starts_replicas_as_jobs_and_becomes_ready(bench):
    assert bench.deploy(num_replicas=2).state is EndpointState.STARTING
    bench.settle()
    status = bench.status()
    assert status.state is EndpointState.READY
    assert [item.state for item in status.replicas] == [ReplicaState.READY] * 2
    assert len(bench.running()) == 2
    assert status.url.startswith("http://127.0.0.1:")


def test_endpoint_that_always_fails_does_not_block_the_others(bench, monkeypatch):
    bring_about = bench.serving._reconciler.bring_about

    def refusing(endpoint):
        if endpoint.name == "bad":
            raise RuntimeError("a defect")
        return bring_about(endpoint)

    monkeypatch.setattr(bench.serving._reconciler, "bring_about", refusing)
    bench.deploy(name="bad")
    bench.deploy(name="good")
    bench.settle()
    assert [bench.status(name).state for name in ("bad", "good")] == [EndpointState.STARTING, EndpointState.READY]


def test_replica_gets_the_bundle_and_a_plan_that_the_data_plane_reads(bench):
    bench.deploy()
    bench.settle()
    (task,) = bench.engine.launched
    (replica,) = replicas(bench)
    job = bench.jobs.find(bench.disk.read(lambda view: view), replica.job_id, "default")
    assert set(job.spec.files) == {"bundle/model.onnx", "bundle/profile.json", "bundle/manifest.json", "plan.json"}
    plan = msgspec.json.decode(bench.blobs.get(job.spec.files["plan.json"]), type=ServePlan)
    status = bench.status()
    assert (plan.endpoint, plan.replica, plan.revision) == (status.endpoint.id, replica.id, status.revisions[0].id)
    assert (plan.rest_port, plan.grpc_port) == (status.endpoint.rest_port, status.endpoint.grpc_port)
    assert plan.manifest == job.spec.files["bundle/manifest.json"]
    assert task.entry.module == "skyloom.inference"


def test_costs_of_an_endpoint_go_by_its_name(bench):
    ids = [bench.deploy(name=name).endpoint.id for name in ("iris", "rose")]
    found = bench.disk.read(lambda view: titles(view, [*ids, "", "(others)", "ep_gone"]))
    assert found == dict(zip(ids, ("iris", "rose"), strict=True))


def test_replica_that_is_killed_is_replaced_and_says_why(bench):
    bench.deploy(num_replicas=2)
    bench.settle()
    bench.engine.print(f"{replicas(bench)[0].job_id}.1.0", b"first line\nlast words\n")
    bench.engine.lose(f"{replicas(bench)[0].job_id}.1.0", EndReason.SIGNALLED, "killed by signal 9")
    bench.settle(4)
    assert bench.status().state is EndpointState.READY
    assert len(bench.running()) == 2
    failed = next(item.replica for item in bench.status().replicas if item.replica.failed)
    assert "killed by signal 9" in failed.message and "last words" in failed.message


def test_endpoint_whose_replicas_always_end_is_a_crash_loop_with_evidence(bench):
    bench.deploy()
    for _ in range(40):
        bench.round()
        for task_id in bench.running():
            bench.engine.finish(task_id, 65, output=b"skyloom.inference: The model bundle is refused.\n")
    status = bench.status()
    assert status.state is EndpointState.CRASH_LOOP
    assert "bundle is refused" in status.message
    assert status.next_action
    assert len(replicas(bench)) < 10, "it waits longer and longer"


def test_new_revision_answers_before_the_old_one_stops(bench):
    bench.deploy(num_replicas=2)
    bench.settle()
    first = set(bench.running())
    bench.register(weights=b"two")
    assert bench.deploy().endpoint.revision == 2
    answering = []
    for _ in range(8):
        bench.round()
        answering.append(sum(item.state is ReplicaState.READY for item in bench.status().replicas))
    assert min(answering) >= 2
    assert bench.status().state is EndpointState.READY
    assert len(bench.running()) == 2 and not first & set(bench.running())


def test_deploy_of_the_same_again_changes_nothing(bench):
    bench.deploy(num_replicas=2)
    bench.settle()
    before = bench.running()
    again = bench.deploy()
    assert (again.endpoint.revision, again.endpoint.num_replicas) == (1, 2)
    bench.settle()
    assert bench.running() == before


def test_fetching_of_pictures_is_a_new_revision_and_stays_until_it_is_taken_back(bench):
    def told(status) -> tuple[int, bool]:
        newest = max(status.revisions, key=lambda one: one.number)
        return newest.number, newest.picture_urls

    assert told(bench.deploy()) == (1, False)
    assert told(bench.deploy(picture_urls=True)) == (2, True)
    assert told(bench.deploy()) == (2, True)
    assert told(bench.deploy(picture_urls=False)) == (3, False)
    bench.deploy(picture_urls=True)
    bench.settle()
    newest = max(replicas(bench), key=lambda one: one.revision_number)
    job = bench.jobs.find(bench.disk.read(lambda view: view), newest.job_id, "default")
    assert msgspec.json.decode(bench.blobs.get(job.spec.files["plan.json"]), type=ServePlan).picture_urls


def test_deploy_with_fewer_replicas_stops_the_rest_only(bench):
    bench.deploy(num_replicas=3)
    bench.settle()
    before = bench.running()
    bench.deploy(num_replicas=1)
    bench.settle()
    assert len(bench.running()) == 1 and bench.running()[0] in before


def test_stop_ends_every_replica_and_a_later_deploy_revives_the_address(bench):
    bench.deploy(num_replicas=2)
    bench.settle()
    ports = bench.status().endpoint.rest_port
    bench.stop()
    bench.stop()
    bench.settle()
    assert (bench.status().state, bench.running()) == (EndpointState.STOPPED, [])
    bench.deploy()
    bench.settle()
    assert bench.status().state is EndpointState.READY
    assert bench.status().endpoint.rest_port == ports


def test_endpoints_never_share_ports(bench):
    for name in ("a", "b", "c"):
        bench.deploy(name=name)
    bench.settle(2)
    found = bench.serving.list(ListEndpoints(), ME).items
    ports = [port for item in found for port in (item.endpoint.rest_port, item.endpoint.grpc_port)]
    assert 0 not in ports and len(set(ports)) == 6


def test_deploy_of_what_does_not_exist_or_never_fits_is_refused(bench):
    with pytest.raises(ModelMissing):
        bench.deploy("nothing")
    with pytest.raises(ModelVersionMissing):
        bench.deploy(version="7")
    with pytest.raises(ImpossibleRequest):
        bench.deploy(resources=Resources(cpus=10_000))
    assert not replicas(bench)


def test_foreign_endpoints_and_predictions_look_absent(bench):
    bench.deploy()
    bench.settle()
    name = bench.status().endpoint.id
    for asked in (name, "toy"):
        with pytest.raises(EndpointMissing):
            bench.serving.get(GetEndpoint(name=asked), STRANGER)
    assert bench.serving.list(ListEndpoints(), STRANGER).items == ()
    _, prediction_id = logged(bench)
    with pytest.raises(PredictionMissing) as foreign:
        bench.serving.find_prediction(FindPrediction(prediction_id=prediction_id), STRANGER)
    with pytest.raises(PredictionMissing) as absent:
        bench.serving.find_prediction(FindPrediction(prediction_id=prediction_id), ME_ELSEWHERE)
    assert type(foreign.value) is type(absent.value) and str(foreign.value) == str(absent.value)


ME_ELSEWHERE = msgspec.structs.replace(ME, project="elsewhere")


def logged(bench):
    (replica,) = replicas(bench)
    prediction_id = name_prediction(replica.id, 4)
    line = Prediction(
        prediction_id=prediction_id,
        at=1.0,
        revision=replica.revision_id,
        rows=1,
        latency_us=5,
        outputs=msgspec.Raw(b"null"),
    )
    bench.files.logs[replica.id] = b"old\n" + msgspec.json.encode(line) + b"\nnext\n"
    return replica, prediction_id


def test_prediction_is_found_with_what_made_it(bench):
    bench.deploy()
    bench.settle()
    replica, prediction_id = logged(bench)
    found = bench.serving.find_prediction(FindPrediction(prediction_id=prediction_id), ME)
    assert (found.replica.id, found.revision.id, found.prediction.rows) == (replica.id, replica.revision_id, 1)
    assert found.revision.model_version and found.endpoint.name == "toy"
    with pytest.raises(PredictionMissing):
        bench.serving.find_prediction(FindPrediction(prediction_id=name_prediction(replica.id, 3)), ME)
    assert json.loads(msgspec.json.encode(found))["prediction"]["prediction_id"] == prediction_id


def test_prediction_whose_log_was_removed_has_expired_and_says_what_made_it(bench):
    bench.deploy()
    bench.settle()
    replica, prediction_id = logged(bench)
    bench.files.trimmed[replica.id] = 5
    with pytest.raises(PredictionExpired) as gone:
        bench.serving.find_prediction(FindPrediction(prediction_id=prediction_id), ME)
    assert "has expired" in str(gone.value) and replica.revision_id in str(gone.value)
    with pytest.raises(PredictionMissing):
        bench.serving.find_prediction(FindPrediction(prediction_id=prediction_id), STRANGER)


def test_only_the_replica_itself_may_report(bench):
    bench.deploy()
    bench.settle()
    (replica,) = replicas(bench)
    for task_id in ("", "job_x.1.0", replica.job_id, f"{replica.job_id}0.1.0"):
        with pytest.raises(NotAReplica):
            bench.report(replica, by=msgspec.structs.replace(ME, task_id=task_id))


def test_report_of_an_unwanted_replica_is_answered_with_stop(bench):
    bench.deploy()
    bench.settle()
    (replica,) = replicas(bench)
    assert not bench.report(replica, requests=7).stop
    assert bench.status().traffic.requests == 7
    bench.stop()
    bench.serving.tick()
    assert bench.report(replica).stop


def test_replica_that_falls_silent_is_replaced(bench):
    bench.deploy()
    bench.settle()
    before = bench.running()
    for _ in range(64):
        bench.round(report=False)
    bench.settle()
    assert bench.status().state is EndpointState.READY
    assert len(bench.running()) == 1 and bench.running() != before


def test_restarted_control_plane_leaves_running_replicas_alone(bench):
    bench.deploy(num_replicas=2)
    bench.settle()
    before = bench.running()
    bench.start()
    bench.settle()
    assert (bench.running(), bench.status().state) == (before, EndpointState.READY)


def test_access_list_holds_exactly_the_live_tokens_that_may_predict(bench):
    bench.deploy()
    made = {}
    for role in (Role.VIEWER, Role.PREDICTOR, Role.EDITOR, Role.ADMIN):
        ask = CreateToken(name=role.value, role=role)
        made[role] = bench.store.write(lambda tx, ask=ask: bench.tenancy.create_token(tx, ask, ME)).token
    foreign = bench.store.write(
        lambda tx: bench.tenancy.create_token(tx, CreateToken(name="f", role=Role.ADMIN), ME_ELSEWHERE)
    ).token
    bench.settle(2)
    listed = bench.files.access["default"]
    assert made[Role.VIEWER].digest not in listed and foreign.digest not in listed
    assert {made[role].digest for role in (Role.PREDICTOR, Role.EDITOR, Role.ADMIN)} <= set(listed)
    bench.store.write(lambda tx: bench.tenancy.revoke_token(tx, RevokeToken(token_id=made[Role.EDITOR].id), ME))
    bench.settle(1)
    assert made[Role.EDITOR].digest not in bench.files.access["default"]


def life(bench) -> None:
    """Everything that can happen to an endpoint, one commit after the other."""
    steps = [
        lambda: bench.deploy(num_replicas=2),
        lambda: bench.engine.lose(bench.running()[0]) if bench.running() else None,
        lambda: bench.register(weights=b"two"),
        lambda: bench.deploy(num_replicas=2),
    ]
    for step in steps:
        step()
        bench.settle(6)


def count_commits() -> int:
    bench = Bench()
    bench.start()
    life(bench)
    return bench.store.commits


@pytest.mark.parametrize("phase", ["before", "after"])
def test_control_plane_killed_at_every_commit_leaves_no_replica_lost_or_doubled(phase):
    for number in range(1, count_commits() + 1):
        bench = Bench()
        bench.start(phase, number)
        try:
            life(bench)
        except Crash:
            bench.start()
        bench.register(weights=b"two")
        bench.deploy(num_replicas=2)
        bench.settle(20)
        assert bench.status().state is EndpointState.READY, number
        assert len(bench.running()) == 2, number
        live = [item for item in replicas(bench) if item.ended_at is None]
        assert {f"{item.job_id}.1.0" for item in live} == set(bench.running()), number
        bench.stop()
        bench.settle(10)
        assert (bench.running(), bench.status().state) == ([], EndpointState.STOPPED), number
