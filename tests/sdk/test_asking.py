"""What goes to a model and what its answers mean; which of the two addresses of a model server is asked."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from skyloom.core.errors import NotFound
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, ModelKind, Signature, TensorSpec
from skyloom.sdk.asking import PredictionRefused, RowPrediction, meanings, meanings_of, rows_by_name, tensors_of
from skyloom.sdk.serving import EndpointCalls

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2)),),
    outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 2)),),
)
FILE = BundleFile(path="model.onnx", digest=f"sha256:{'0' * 64}", size_bytes=1)
PETS = Manifest(
    kind=ModelKind.CLASSIFICATION, signature=SIGNATURE, files=(FILE,), labels=("cat", "dog"), columns=("age", "weight")
)
DESCRIBED = [{"name": "x", "datatype": "FP32"}]


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        ([[1, 2]], None),
        (np.zeros((1, 2)), None),
        ({"x": [[1, 2]]}, None),
        ({"x": np.zeros((1, 2))}, None),
        ({}, None),
        ([], None),
        ({"age": 1, "weight": 2}, [{"age": 1, "weight": 2}]),
        ({"x": 1}, [{"x": 1}]),  # a column of the same name as the input
        ([{"age": 1}, [1]], [{"age": 1}, [1]]),
    ],
)
def test_rows_with_names_are_told_from_tensors(inputs, rows) -> None:
    assert rows_by_name(DESCRIBED, inputs) == rows


def test_tensors_of_several_inputs_need_their_names() -> None:
    assert tensors_of(DESCRIBED, [[1, 2]]) == [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2]]}]
    with pytest.raises(PredictionRefused, match="several inputs: x, y"):
        tensors_of([*DESCRIBED, {"name": "y", "datatype": "FP32"}], [[1]])


@pytest.mark.parametrize(
    ("manifest", "scores", "said"),
    [
        (
            PETS,
            [[0.2, 0.8], [0.9, 0.1]],
            (RowPrediction(label="dog", score=0.8), RowPrediction(label="cat", score=0.9)),
        ),
        (PETS, [[None, None]], (RowPrediction(),)),
        (msgspec.structs.replace(PETS, labels=()), [[0.2, 0.8]], (RowPrediction(label=1, score=0.8),)),
        (msgspec.structs.replace(PETS, kind=ModelKind.REGRESSION), [[3.5]], (RowPrediction(prediction=3.5),)),
        (msgspec.structs.replace(PETS, kind=ModelKind.OTHER), [[3.5]], ()),
        (PETS, [["a"]], ()),
        (PETS, [[]], ()),
    ],
)
def test_scores_mean_what_the_version_says(manifest, scores, said) -> None:
    assert meanings(manifest, {"scores": scores}) == said


def test_answers_of_a_server_mean_the_same() -> None:
    rows = [{"outputs": {}, "label": "dog", "score": 0.8}, {"outputs": {}, "label": "cat", "score": None}]
    assert meanings_of(rows) == (RowPrediction(label="dog", score=0.8), RowPrediction())
    assert meanings_of([{"outputs": {}, "prediction": None}]) == (RowPrediction(),)
    assert meanings_of([{"outputs": {}}]) == ()


class Asked(EndpointCalls):
    """An endpoint ``pets`` whose model server answers what it was given."""

    def __init__(self, answer: dict, manifest: Manifest | None = PETS) -> None:
        super().__init__(SimpleNamespace(send=self._looked_up))
        self.answer, self.manifest, self.looked_up = answer, manifest, 0
        self.sent: list[tuple[str, object]] = []

    def _looked_up(self, ask: object) -> object:
        self.looked_up += 1
        if self.manifest is None:
            raise NotFound("It is gone.", next_action="Register it.")
        return SimpleNamespace(manifest=self.manifest)

    def get(self, name: str):
        replica = SimpleNamespace(replica=SimpleNamespace(id="rep_a", revision_number=2))
        return SimpleNamespace(
            revisions=(SimpleNamespace(number=2, version_label="7"),),
            replicas=(replica,),
            endpoint=SimpleNamespace(id="ep", model="pets", name="pets"),
        )

    def _server(self, name: str, model_name: str):
        return self.get(name), {"name": model_name or "pets", "versions": ["1"], "inputs": DESCRIBED}

    def _ask(self, status, method: str, path: str, content: bytes):
        self.sent.append((path, msgspec.json.decode(content)))
        return self.answer


def test_lists_get_their_labels_from_the_version_that_answered_which_is_looked_up_once() -> None:
    outputs = [{"name": "scores", "shape": [1, 2], "data": [0.2, 0.8]}]
    parameters = {"skyloom-prediction-id": "pred_a_0"}
    answer = {"model_name": "pets", "model_version": "3", "outputs": outputs, "parameters": parameters}
    pets = Asked(answer)
    for _ in range(2):
        told = pets.predict("pets", [[1, 2]])
    assert (told.model_version, told.outputs) == ("3", {"scores": [[0.2, 0.8]]})
    assert told.predictions == (RowPrediction(label="dog", score=0.8),) and pets.looked_up == 1
    assert pets.sent[0][0] == "/v2/models/pets/infer"
    forgotten = Asked(answer, manifest=None)
    assert [forgotten.predict("pets", [[1, 2]]).predictions for _ in range(2)] == [(), ()] and forgotten.looked_up == 1


@pytest.mark.parametrize("name", ["", "birds"])
def test_rows_by_name_are_put_in_order_by_the_server_that_knows_the_texts(name) -> None:
    said = [{"outputs": {"scores": [0.2, 0.8]}, "label": "dog", "score": 0.8}]
    told = {"predictions": said, "prediction_id": "pred_a_0", "model_name": name or "pets", "model_version": "7"}
    pets = Asked(told)
    answer = pets.predict("pets", {"age": np.float32(3), "weight": None}, model_name=name)
    assert pets.sent == [(f"/v2/models/{name or 'pets'}/predict", [{"age": 3.0, "weight": None}])]
    assert (answer.model, answer.model_version, answer.outputs) == (name or "pets", "7", {"scores": [[0.2, 0.8]]})
    assert answer.predictions == (RowPrediction(label="dog", score=0.8),)
