"""What a mount means: references become exact versions with their files, and stay what they are when asked again."""

from types import SimpleNamespace

import pytest

from skyloom.core.errors import NotFound
from skyloom.ports.engine import Ability, Command
from skyloom.ports.environment import Mount, MountFile
from skyloom.ports.store import Snapshot
from skyloom.rooms.jobs.model import JobSpec, SubmitJob
from skyloom.rooms.jobs.mounts import MountRefused, check
from skyloom.rooms.registry.model import RegisterModelVersion, SetAlias
from skyloom.rooms.registry.mounts import resolver
from tests.rooms.workshop import ANN, BOB, Workshop, manifest

DIGEST = f"sha256:{'1' * 64}"


class Shelf:
    """The data room: one dataset "digits" with versions 1 and 2 in project p."""

    def version(self, view: Snapshot, dataset: str, reference: str, project: str) -> tuple[object, object]:
        numbers = {"newest": 2, "1": 1, "2": 2, "best": 1}
        if (dataset, project) != ("digits", "p") or reference not in numbers:
            raise NotFound(f"There is no {dataset}:{reference}.", next_action="")
        contents = SimpleNamespace(digest=DIGEST)
        return SimpleNamespace(name="digits"), SimpleNamespace(number=numbers[reference], contents=contents)


@pytest.fixture
def shop() -> Workshop:
    shop = Workshop()
    shop.jobs.resolve_mount = resolver(Shelf(), shop.registry)  # type: ignore[arg-type]
    register = RegisterModelVersion(model="reader", manifest=manifest(shop.blobs))

    def work(tx):  # type: ignore[no-untyped-def]
        shop.registry.register(tx, register, ANN)
        shop.registry.set_alias(tx, SetAlias(model="reader", alias="champion", number=1), ANN)

    shop.store.write(work)
    return shop


def submitted(shop: Workshop, by: object = ANN, **mounts: str):  # type: ignore[no-untyped-def]
    ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), mounts=mounts))
    return shop.store.write(lambda tx: shop.jobs.submit(tx, ask, by)).job  # type: ignore[arg-type]


def test_dataset_becomes_one_parquet_file_of_the_version_it_is_now(shop: Workshop) -> None:
    job = submitted(shop, data="dataset:digits")
    rows = MountFile(path="rows.parquet", digest=DIGEST, route="datasets/digits/versions/2/rows.parquet", is_rows=True)
    assert job.mounts == (Mount(name="data", subject="dataset:digits:2", files=(rows,)),)
    assert job.spec.mounts == {"data": "dataset:digits:2"}


def test_alias_and_tag_become_numbers(shop: Workshop) -> None:
    job = submitted(shop, old="model:reader:champion", data="dataset:digits:best")
    assert job.spec.mounts == {"data": "dataset:digits:1", "old": "model:reader:1"}
    files = {file.path: file.route for file in job.mounts[1].files}
    assert set(files) == {"model.onnx", "profile.json"}
    assert all(route == f"blobs/{file.digest}" for file, route in zip(job.mounts[1].files, files.values(), strict=True))


def test_plan_of_a_task_carries_the_mounts_of_its_job(shop: Workshop) -> None:
    job = submitted(shop, data="dataset:digits:1")
    shop.loop.tick()
    assert shop.engine.launched[0].mounts == job.mounts


@pytest.mark.parametrize("reference", ["dataset:nothing", "dataset:digits:9", "model:nothing:1", "model:reader:2"])
def test_what_is_not_there_queues_nothing(shop: Workshop, reference: str) -> None:
    with pytest.raises(NotFound):
        submitted(shop, x=reference)
    shop.loop.tick()
    assert shop.engine.launched == []


def test_what_is_somebody_elses_is_not_there(shop: Workshop) -> None:
    for reference in ("dataset:digits:1", "model:reader:1"):
        with pytest.raises(NotFound):
            submitted(shop, BOB, x=reference)


def test_pool_that_cannot_mount_is_refused_early() -> None:
    spec = JobSpec(entry=Command(argv=("true",)), mounts={"x": "dataset:digits"})
    check(spec, {Ability.MOUNTS})
    check(JobSpec(entry=Command(argv=("true",))), set())
    with pytest.raises(MountRefused):
        check(spec, set())


def test_cloud_without_datasets_refuses_by_name() -> None:
    with pytest.raises(MountRefused, match="dataset:digits"):
        submitted(Workshop(), x="dataset:digits")
