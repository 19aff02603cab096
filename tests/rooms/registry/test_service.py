import re

import msgspec
import pytest

from skyloom.core.operation import Caller
from skyloom.ports.door import Change
from skyloom.rooms.registry.bundle import BundleFile, Datatype, ImageInput, ImageLayout, Signature, TensorSpec
from skyloom.rooms.registry.model import (
    AliasReserved,
    AlreadyRegistered,
    BundleIncomplete,
    BundleInvalid,
    Evaluation,
    GetModel,
    GetModelVersion,
    ListModels,
    ModelMissing,
    ModelVersion,
    ModelVersionMissing,
    Provenance,
    RegisterModelVersion,
    SetAlias,
)
from skyloom.rooms.tracking.model import ListRuns
from skyloom.rooms.training.model import Train
from tests.rooms.workshop import ANN, BOB, Workshop, manifest


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


def register(shop: Workshop, weights: bytes = b"weights", run_id: str = "", by: Caller = ANN) -> ModelVersion:
    return ask(
        shop,
        RegisterModelVersion(
            model="digits",
            manifest=manifest(shop.blobs, weights),
            provenance=Provenance(run_id=run_id, dataset="digits", dataset_version=2),
            evaluation=Evaluation(split="test", num_rows=10, metrics={"accuracy": 0.9}),
        ),
        by,
    )


def ask(shop: Workshop, request: RegisterModelVersion, by: Caller = ANN) -> ModelVersion:
    handler = shop.registry.handlers()[RegisterModelVersion]
    assert isinstance(handler, Change) and handler.before
    handler.before(request, by)
    return shop.store.write(lambda tx: handler.run(tx, request, by))  # type: ignore[no-any-return]


def a_task(shop: Workshop) -> Caller:
    run = shop.train(Train(recipe="image", dataset="digits", target="label")).run
    return Caller(principal="t", project="p", scope="p", rights=frozenset(), task_id=f"{run.job_id}.1.0")


def alias(shop: Workshop, name: str, number: int) -> None:
    request = SetAlias(model="digits", alias=name, number=number)
    shop.store.write(lambda tx: shop.registry.set_alias(tx, request, ANN))


def number(shop: Workshop, reference: str) -> int:
    return shop.registry.get_version(GetModelVersion(model="digits", reference=reference), ANN).number


def test_versions_count_from_one_within_their_model(shop: Workshop) -> None:
    assert [register(shop, bytes([n])).number for n in range(3)] == [1, 2, 3]
    shown = shop.registry.get(GetModel(model="digits"), ANN)
    assert shown.model.newest == 3
    assert [version.number for version in shown.versions] == [3, 2, 1]
    assert shown.versions[0].provenance.dataset_version == 2


def test_run_that_registers_again_gets_the_same_version(shop: Workshop) -> None:
    one, two = a_task(shop), a_task(shop)
    first = register(shop, by=one)
    assert register(shop, by=one) == first
    assert register(shop, by=two).number == 2
    with pytest.raises(AlreadyRegistered, match=first.run_id):
        register(shop, b"other weights", by=one)


def test_people_cannot_register_in_the_name_of_a_run(shop: Workshop) -> None:
    task = a_task(shop)
    first = register(shop, by=task)
    claimed = register(shop, b"other weights", run_id=first.run_id)
    assert (claimed.number, claimed.run_id, claimed.provenance.run_id) == (2, "", "")
    assert register(shop, by=task) == first


def test_references_mean_numbers_aliases_and_the_newest(shop: Workshop) -> None:
    for weights in (b"a", b"b"):
        register(shop, weights)
    alias(shop, "champion", 1)
    assert (number(shop, "newest"), number(shop, "champion"), number(shop, "2")) == (2, 1, 2)
    alias(shop, "champion", 2)
    assert number(shop, "champion") == 2


@pytest.mark.parametrize("reference", ["0", "3", "challenger", "-1"])
def test_reference_that_means_nothing_is_refused_with_what_there_is(shop: Workshop, reference: str) -> None:
    register(shop, b"a")
    register(shop, b"b")
    alias(shop, "champion", 1)
    with pytest.raises(ModelVersionMissing, match=r"Versions are 1 to 2; aliases: champion"):
        number(shop, reference)


def test_alias_of_a_version_that_is_not_there_is_refused(shop: Workshop) -> None:
    register(shop)
    with pytest.raises(ModelVersionMissing):
        alias(shop, "champion", 2)


def test_bundle_with_a_file_that_was_not_uploaded_is_refused(shop: Workshop) -> None:
    whole = manifest(shop.blobs)
    absent = BundleFile(path="extra.json", digest="sha256:" + "0" * 64, size_bytes=3)
    request = RegisterModelVersion(model="digits", manifest=manifest(shop.blobs, files=(*whole.files, absent)))
    with pytest.raises(BundleIncomplete, match=r"'extra.json' of the bundle was not uploaded"):
        ask(shop, request)
    with pytest.raises(ModelMissing):
        shop.registry.get(GetModel(model="digits"), ANN)


def test_bundle_with_a_file_of_another_size_is_refused(shop: Workshop) -> None:
    model, profile = manifest(shop.blobs).files
    wrong = BundleFile(path=profile.path, digest=profile.digest, size_bytes=profile.size_bytes + 1)
    with pytest.raises(BundleIncomplete, match="has 2 bytes, not 3"):
        ask(shop, RegisterModelVersion(model="digits", manifest=manifest(shop.blobs, files=(model, wrong))))


def fixed() -> Signature:
    tensor = TensorSpec(name="x", datatype=Datatype.FP32, shape=(1, 2))
    return Signature(inputs=(tensor,), outputs=(tensor,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ("cat",)}, "has 1 labels for 2 scores"),
        ({"signature": fixed()}, "fixes the batch of 'x' to 1"),
        ({"files": "no profile"}, "lists no profile.json"),
        ({"files": "twice"}, "lists 'model.onnx' twice"),
        ({"files": "itself"}, "lists manifest.json, which is itself"),
        ({"image": ImageInput(tensor="y", layout=ImageLayout.GREY)}, "pictures for 'y', which is no input"),
    ],
)
def test_manifest_that_cannot_be_served_is_refused(shop: Workshop, change: dict[str, object], words: str) -> None:
    model, profile = manifest(shop.blobs).files
    chosen = {"no profile": (model,), "twice": (model, model, profile)}
    chosen["itself"] = (model, profile, msgspec.structs.replace(profile, path="manifest.json"))
    change = {name: chosen.get(value, value) if name == "files" else value for name, value in change.items()}  # type: ignore[call-overload]
    with pytest.raises(BundleInvalid, match=re.escape(words)):
        ask(shop, RegisterModelVersion(model="digits", manifest=manifest(shop.blobs, **change)))


@pytest.mark.parametrize("name", ["1", "2", "newest"])
def test_alias_that_would_hide_a_version_is_refused(shop: Workshop, name: str) -> None:
    register(shop)
    with pytest.raises(AliasReserved):
        alias(shop, name, 1)


@pytest.mark.parametrize("reference", ["²", "٣", "-1", "1.0", "0", "9" * 100])
def test_reference_that_is_no_number_of_ours_is_missing(shop: Workshop, reference: str) -> None:
    register(shop)
    with pytest.raises(ModelVersionMissing):
        shop.store.read(lambda view: shop.registry.version(view, "digits", reference, "p"))


def test_model_of_another_project_does_not_exist(shop: Workshop) -> None:
    register(shop)
    with pytest.raises(ModelMissing):
        shop.registry.get(GetModel(model="digits"), BOB)
    assert shop.registry.list(ListModels(), BOB).items == ()
    assert register(shop, by=BOB).number == 1
    assert [model.name for model in shop.registry.list(ListModels(), ANN).items] == ["digits"]


def test_task_registers_for_its_own_run_whatever_it_says(shop: Workshop) -> None:
    task = a_task(shop)
    version = register(shop, run_id="run_of_somebody_else", by=task)
    assert f"{version.provenance.job_id}.1.0" == task.task_id
    assert version.run_id == version.provenance.run_id == shop.tracking.list(ListRuns(), ANN).items[0].run.id
