"""Packs: which versions are meant, what replicas are told, and that none of it starts a replica anew."""

import msgspec
import pytest

from skyloom.core.resources import Resources
from skyloom.rooms.monitoring.model import (
    AlertRule,
    AlertState,
    Feature,
    GetMonitor,
    Histogram,
    ListAlerts,
    NotWatched,
    Profile,
    Reduction,
    SetAlertRules,
    Signal,
    Traffic,
)
from skyloom.rooms.monitoring.ports import WATCHES
from skyloom.rooms.registry.bundle import RuntimeName
from skyloom.rooms.registry.model import ModelMissing, ModelVersionMissing
from skyloom.rooms.registry.services import ServiceMethod, ServiceSpec
from skyloom.rooms.serving.model import FindPrediction, PackModels
from skyloom.rooms.serving.pack import GuestReport, GuestState, GuestTraffic, PackUnclear
from skyloom.rooms.serving.ports import REPLICAS
from skyloom.rooms.serving.predictions import Prediction, name_prediction
from tests.rooms.serving.bench import ME, Bench, Crash

MIB = 2**20


@pytest.fixture
def bench():
    made = Bench()
    for name in ("cat", "dog"):
        made.register(name, name.encode())
    made.deploy(resources=Resources(cpus=0.5, memory_bytes=512 * MIB))
    made.settle()
    return made


def pack(bench, *add, **what):
    return bench.ask(PackModels(name="toy", add=add, **what))


def told(bench):
    bench.settle(2)
    (table,) = bench.files.packs.values()
    return table


def test_pack_tells_replicas_of_pinned_models_and_starts_none_anew(bench):
    before = bench.running()
    status = pack(bench, "dog:1", "cat", memory_bytes=100 * MIB, max_loaded=2)
    assert [(one.model, one.label) for one in status.endpoint.pack.models] == [("cat", "1"), ("dog", "1")]
    table = told(bench)
    assert (table.memory_bytes, table.max_loaded) == (100 * MIB, 2)
    assert [(one.model, one.label, one.size_bytes > 0) for one in table.entries] == [
        ("cat", "1", True),
        ("dog", "1", True),
    ]
    laid = bench.files.bundles[table.entries[0].manifest]
    assert sorted(laid) == ["manifest.json", "model.onnx", "profile.json"]
    assert bench.blobs.get(laid["model.onnx"]) == b"cat"
    assert bench.running() == before and status.endpoint.revision == 1


def test_version_of_a_pack_stays_until_it_is_added_again(bench):
    pack(bench, "cat")
    bench.register("cat", b"another cat")
    assert [one.label for one in told(bench).entries] == ["1"]
    pack(bench, "cat", remove=("dog", "nobody"))
    assert [one.label for one in told(bench).entries] == ["2"]
    pack(bench, remove=("cat",))
    assert told(bench).entries == ()


def test_pack_without_bounds_has_half_of_what_the_newest_revision_has(bench):
    pack(bench, "cat")
    assert told(bench).memory_bytes == 256 * MIB
    bench.deploy(resources=Resources(cpus=0.5, memory_bytes=1024 * MIB))
    assert told(bench).memory_bytes == 512 * MIB


def test_what_cannot_be_packed_is_refused_in_words(bench):
    method = ServiceMethod(name="ask")
    service = ServiceSpec(entry="model.onnx", class_name="Own", methods=(method,))
    bench.register("own", b"x", runtime=RuntimeName.SERVICE, service=service)
    for add, words, what in (
        ("toy", "serves 'toy' itself", {}),
        ("own", "needs a process of its own", {}),
        ("cat", "cannot have", {"memory_bytes": 513 * MIB}),
    ):
        with pytest.raises(PackUnclear, match=words):
            pack(bench, add, **what)
    with pytest.raises(ModelMissing):
        pack(bench, "nobody")
    with pytest.raises(ModelVersionMissing):
        pack(bench, "cat:9")
    assert bench.status().endpoint.pack is None
    for bad in ("../x", "a:b:c", "A", "a:", "x" * 300):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": "toy", "add": [bad]}, PackModels)


def test_pack_outlives_a_control_plane_that_dies_at_any_commit(bench):
    for phase in ("before", "after"):
        bench.start(phase, 1)
        with pytest.raises(Crash):
            pack(bench, "cat")
        bench.start()
        pack(bench, "cat")
        assert [one.model for one in told(bench).entries] == ["cat"]
        bench.start()
        pack(bench, remove=("cat",))
        bench.start()  # before it told anybody
        assert told(bench).entries == ()


def test_prediction_of_a_guest_is_found_with_its_version_and_a_replica_says_what_is_loaded(bench):
    pack(bench, "cat")
    bench.settle(1)
    (replica,) = bench.disk.read(lambda view: view.select(REPLICAS))
    name = name_prediction(replica.id, 0)
    guest = Prediction(
        prediction_id=name,
        at=1.0,
        revision=replica.revision_id,
        rows=1,
        latency_us=1,
        version="version_x",
        outputs=msgspec.Raw(b"null"),
    )
    bench.files.logs[replica.id] = msgspec.json.encode(guest) + b"\n"
    found = bench.serving.find_prediction(FindPrediction(prediction_id=name), ME)
    assert found.prediction.version == "version_x" and found.revision.number == 1
    said = GuestReport(model="cat", version="1", state=GuestState.LOADED, memory_bytes=5, requests=3, loads=1)
    bench.report(replica, guests=(said,))
    assert bench.status().replicas[0].guests == (said,)


AGE = Feature(name="age", tensor="x", reduction=Reduction.COLUMN, edges=(30.0, 40.0, 50.0))
PROFILE = Profile(features=(AGE,), histograms=(Histogram(counts=(1_000,) * 4),))


def saw(model: str, counts: tuple[int, ...], label: str = "1") -> GuestTraffic:
    seen = Traffic(requests=sum(counts), rows=sum(counts), histograms=(Histogram(counts=counts),))
    return GuestTraffic(model=model, version=label, traffic=seen)


def firing(bench) -> dict[str, Signal]:
    open_ = bench.monitoring.list_alerts(ListAlerts(state=AlertState.FIRING), ME).items
    return {alert.endpoint_name: alert.signal for alert in open_}


def watched(bench, name: str):
    return bench.monitoring.get(GetMonitor(name=name), ME)


def test_guest_that_drifts_fires_an_alert_of_its_own_as_an_endpoint_does(bench):
    bench.register("cat", b"a third cat", PROFILE)
    pack(bench, "cat", "dog")
    bench.settle(2)
    (replica,) = bench.disk.read(lambda view: view.select(REPLICAS))
    alike = (saw("cat", (100, 100, 100, 100), "2"), saw("stranger", (9, 9, 9, 9)))
    bench.report(replica, guest_traffic=alike)
    bench.monitoring.tick()
    assert firing(bench) == {} and watched(bench, "toy:cat").rows == 400
    assert watched(bench, "toy").rows == 0, "its rows are those of another model"
    bench.clock.advance(5)
    bench.report(replica, guest_traffic=(saw("cat", (100, 100, 100, 3_000), "2"),))
    bench.monitoring.tick()
    assert firing(bench) == {"toy:cat": Signal.DRIFT}
    assert [one.name for one in watched(bench, "toy:cat").drift if one.drifted] == ["age"]
    with pytest.raises(NotWatched):
        watched(bench, "toy:stranger")


def test_rules_of_a_guest_stay_with_its_name_whichever_version_is_packed(bench):
    pack(bench, "cat")
    first = bench.store.read(lambda view: view.select(WATCHES, {"endpoint_name": "toy:cat"}))
    rules = (AlertRule(signal=Signal.ERROR_RATE, threshold=0.5),)
    bench.store.write(lambda tx: bench.monitoring.set_rules(tx, SetAlertRules(name="toy:cat", rules=rules), ME))
    bench.register("cat", b"another cat")
    pack(bench, "cat:2")
    stricter = (AlertRule(signal=Signal.ERROR_RATE, threshold=0.1),)

    def active():
        (found,) = bench.store.read(lambda view: view.select(WATCHES, {"endpoint_name": "toy:cat", "active": True}))
        return found

    assert active().rules == rules and active().id != first[0].id
    bench.store.write(lambda tx: bench.monitoring.set_rules(tx, SetAlertRules(name="toy:cat", rules=stricter), ME))
    pack(bench, "cat:1")  # back to the version that was registered before
    assert (active().id, active().rules) == (first[0].id, stricter)
    assert bench.monitoring.get(GetMonitor(name="toy:cat"), ME).endpoint == first[0].id


def test_watch_of_a_guest_ends_with_it_and_with_its_endpoint_and_comes_back(bench):
    def active() -> set[str]:
        return {watch.endpoint_name for watch in bench.disk.read(lambda view: view.select(WATCHES, {"active": True}))}

    pack(bench, "cat", "dog")
    assert active() == {"toy", "toy:cat", "toy:dog"}
    pack(bench, remove=("dog",))
    assert active() == {"toy", "toy:cat"}
    bench.stop()
    assert active() == set()
    pack(bench, "dog")
    assert active() == set(), "who is stopped is not watched"
    bench.deploy()
    assert active() == {"toy", "toy:cat", "toy:dog"}
