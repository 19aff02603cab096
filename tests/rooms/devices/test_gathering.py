"""Samples become rows, each once, whoever asks twice or at once; what a device says of shapes is not believed."""

from pathlib import Path

import msgspec
import pytest

from skyloom.rooms.data.model import DatasetExists, FailDraft, GetDraft
from skyloom.rooms.devices import model
from skyloom.rooms.devices.gathering import Gathering, rows_of
from skyloom.rooms.devices.messages import Lane, RunBegan, Sampled, UploadOutbox
from skyloom.rooms.devices.model import GatheredSamples, GatherSamples
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, Signature, TensorSpec
from skyloom.rooms.serving.predictions import name_prediction
from tests.rooms.data.test_service import House
from tests.rooms.devices.fleet_room import ANN, FleetRoom

RUN = "rep_00000000000000000000000001"
INPUTS = '[{"name":"image","datatype":"FP32","shape":[2,3],"data":[[1,2,3],[4,5,6]]}]'


class SampledFleet:
    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.room = FleetRoom(self.house.store)
        self.gathering = Gathering(self.house.store, self.house.blobs, self.house.room)
        self.devices = {site: self.room.join(f"d-{site}", site=site) for site in "ab"}
        self.sent = dict.fromkeys("ab", 0)

    def bring(self, site: str, *inputs: str) -> None:
        device, first = self.devices[site], self.sent[site]
        run = f"{RUN[:-1]}{site.upper()}"

        def upload(lane: Lane, first: int, records: tuple) -> None:
            ask = UploadOutbox(
                device=device.device_id, epoch="e", lane=lane, oldest=0, first=first, now=1_000.0, records=records
            )
            self.room.do(ask, device)

        upload(Lane.FACTS, 0, (RunBegan(run=run, version=self.room.versions[0].id, at=1.0),))
        samples = (Sampled(run=run, nth=first + n, at=5.0, inputs=text) for n, text in enumerate(inputs))
        upload(Lane.SAMPLES, first, tuple(samples))
        self.sent[site] += len(inputs)

    def prepare(self, dataset: str, **labels: str) -> GatherSamples:
        ask = GatherSamples(dataset=dataset, model="digits", labels=labels)
        self.gathering.prepare(ask, ANN)
        return ask

    def finish(self, ask: GatherSamples) -> GatheredSamples:
        return self.house.store.write(lambda tx: self.gathering.gather(tx, ask, ANN))

    def gather(self, dataset: str, **labels: str) -> GatheredSamples:
        return self.finish(self.prepare(dataset, **labels))

    def rows(self, made: GatheredSamples) -> list[dict]:
        digest = made.draft.draft.making.sources[0].digest
        return [msgspec.json.decode(line) for line in self.house.blobs.get(digest).splitlines()]


@pytest.fixture
def fleet(tmp_path: Path) -> SampledFleet:
    return SampledFleet(tmp_path)


def test_samples_become_rows_that_lead_back_to_their_prediction_each_once(fleet):
    fleet.bring("a", INPUTS, INPUTS)
    fleet.bring("b", INPUTS)
    only_a = fleet.gather("of-a", site="a")
    assert (only_a.num_rows, only_a.unreadable, only_a.more) == (4, 0, False)
    rows = fleet.rows(only_a)
    assert {row["device"] for row in rows} == {"d-a"}
    assert rows[1] == {"prediction_id": name_prediction(f"{RUN[:-1]}A", 0), "device": "d-a", "at": 5.0,
                       "image_0": 4, "image_1": 5, "image_2": 6}  # fmt: skip
    fleet.bring("a", INPUTS)
    assert fleet.gather("rest").num_rows == 4
    with pytest.raises(model.NothingSampled):
        fleet.gather("none")


def test_samples_that_two_ask_for_at_once_go_to_one(fleet):
    fleet.bring("a", INPUTS)
    one, other = fleet.prepare("one"), fleet.prepare("other")
    fleet.finish(other)
    with pytest.raises(model.SamplesMoved):
        fleet.finish(one)
    with pytest.raises(model.SamplesMoved):
        fleet.finish(other)
    fleet.bring("a", INPUTS)
    with pytest.raises(DatasetExists):
        fleet.gather("other")


def test_two_who_ask_at_once_for_other_samples_under_one_name_do_not_get_each_others(fleet):
    fleet.bring("a", INPUTS)
    fleet.bring("b", INPUTS)
    of_a, of_b = fleet.prepare("same", site="a"), fleet.prepare("same", site="b")
    with pytest.raises(model.SamplesMoved):
        fleet.finish(of_a)
    assert {row["device"] for row in fleet.rows(fleet.finish(of_b))} == {"d-b"}


def test_samples_whose_dataset_failed_are_free_for_it_again(fleet):
    fleet.bring("a", INPUTS)
    made = fleet.gather("d")
    draft = fleet.house.do(GetDraft(draft_id=made.draft.draft.id)).draft
    fleet.house.do(FailDraft(draft_id=draft.id, code="x", category="invalid_input", message="no", next_action=""))
    assert fleet.gather("d").num_rows == 2


def test_samples_that_are_no_table_are_left_out_and_counted(fleet):
    lies = [
        "nonsense",
        "[]",
        "[[[[",
        '[{"name":"image","shape":[3,2],"data":[1]}]',
        '[{"name":"image","shape":[0],"data":[]}]',
        '[{"name":"image","shape":[1,2],"data":[1,2]},{"name":"y","shape":[2],"data":[1,2]}]',
        '[{"name":"y","shape":[1,2],"data":[1,2]}]',
        '[{"name":"image","shape":[1,2],"data":[1,"text"]}]',
        '[{"name":"image","shape":[1],"data":' + "[" * 30_000 + "]" * 30_000 + "}]",
        '[{"name":"image","shape":[1],"data":[' + ",".join("1" * 2_000) + "]}]",
    ]
    fleet.bring("a", INPUTS, *lies)
    made = fleet.gather("d")
    assert (made.num_rows, made.unreadable) == (2, len(lies))


def test_columns_have_the_models_own_names_where_it_has_as_many():
    spec = TensorSpec(name="image", datatype=Datatype.FP32, shape=(-1, 3))
    file = BundleFile(path="model.onnx", digest="sha256:" + "0" * 64, size_bytes=1)
    made = Manifest(signature=Signature(inputs=(spec,), outputs=()), files=(file,), columns=("age", "height", "weight"))
    assert list(rows_of(INPUTS, made))[1] == {"age": 4, "height": 5, "weight": 6}
    made = msgspec.structs.replace(made, columns=("age",))
    assert list(rows_of(INPUTS, made))[1] == {"image_0": 4, "image_1": 5, "image_2": 6}
    made = msgspec.structs.replace(made, columns=("age", "at", "device"))
    assert list(rows_of(INPUTS, made))[1] == {"age": 4, "at_input": 5, "device_input": 6}, "ours are beside them"
