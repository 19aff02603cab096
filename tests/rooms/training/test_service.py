import importlib.util
import re

import msgspec
import pytest

from skyloom.core.errors import NotFound, SkyloomError
from skyloom.core.resources import Resources
from skyloom.ports.engine import PythonFile, PythonModule
from skyloom.rooms.jobs.model import FileMissing, ImpossibleRequest, JobState
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.tracking.ports import RUNS
from skyloom.rooms.training import rules
from skyloom.rooms.training.model import NotSplit, TableSource, TargetMissing, Train, TrainingPlan, TrainingUnclear
from tests.rooms.workshop import ANN, BOB, Workshop


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


def digits(**changes: object) -> Train:
    return Train(**{"recipe": "image", "dataset": "digits", "target": "label", **changes})  # type: ignore[arg-type]


def test_training_makes_a_run_and_a_job_that_know_each_other(shop: Workshop) -> None:
    made = shop.train(digits(parameters={"epochs": 3, "hidden": (8, 4)}, num_workers=2, model="mnist"))
    run = made.run
    assert (run.recipe, run.dataset, run.dataset_version, run.target) == ("image", "digits", 2, "label")
    assert run.parameters == {"epochs": 3, "hidden": (8, 4)}
    job = shop.store.read(lambda view: view.get(JOBS, run.job_id))
    assert job is not None
    assert job.spec.entry == PythonModule(module="skyloom.recipes.image")
    assert (job.spec.num_workers, job.spec.labels) == (2, {"run": run.id, "model": "mnist"})
    plan = msgspec.json.decode(job.spec.environment["SKYLOOM_TRAINING"], type=TrainingPlan)
    assert plan.data == TableSource(table="p/set", number=2)
    assert plan.identifiers == ("path",)
    assert (plan.model, plan.parameters["hidden"], plan.code_digest) == ("mnist", (8, 4), run.code_digest)
    assert made.state is JobState.QUEUED


def test_training_reaches_the_engine_with_its_run_in_the_environment(shop: Workshop) -> None:
    run = shop.train(digits(num_workers=2)).run
    shop.loop.tick()
    assert [task.environment["SKYLOOM_RUN"] for task in shop.engine.launched] == [run.id, run.id]


def test_training_on_an_older_version_is_that_version(shop: Workshop) -> None:
    assert shop.train(digits(version="1")).run.dataset_version == 1


@pytest.mark.parametrize(("asked", "named"), [(None, "digits"), ("mine", "mine"), ("-", "")])
def test_training_registers_under_the_datasets_name_unless_told(shop: Workshop, asked: str | None, named: str) -> None:
    run = shop.train(digits(model=asked)).run
    job = shop.store.read(lambda view: view.get(JOBS, run.job_id))
    assert job is not None
    plan = msgspec.json.decode(job.spec.environment["SKYLOOM_TRAINING"], type=TrainingPlan)
    assert plan.model == named


def test_script_trains_with_its_files_and_arguments(shop: Workshop) -> None:
    digest, _ = shop.blobs.put([b"print(1)"])
    run = shop.train(Train(script="src/train.py", files={"src/train.py": digest}, args=("--fast",))).run
    job = shop.store.read(lambda view: view.get(JOBS, run.job_id))
    assert job is not None
    assert job.spec.entry == PythonFile(path="src/train.py", args=("--fast",))
    assert (run.dataset, run.name) == ("", "src/train.py on its own data")
    other = shop.train(Train(script="src/train.py", files={"src/train.py": digest}, args=("--slow",))).run
    assert run.code_digest != other.code_digest


ABSENT = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (Train(), TrainingUnclear, "a recipe or a script"),
        (digits(script="a.py", files={"a.py": ABSENT}), TrainingUnclear, "not both"),
        (digits(recipe="images"), TrainingUnclear, "image, tabular"),
        (digits(target=None), TrainingUnclear, "needs a target"),
        (digits(dataset=None), TrainingUnclear, "needs a dataset"),
        (digits(target="labels"), TargetMissing, "path, image, label, split"),
        (digits(dataset="raw"), NotSplit, "skyloom data split raw"),
        (digits(dataset="nobody"), NotFound, "nobody"),
        (digits(version="9"), NotFound, "digits"),
        (Train(script="a.py"), TrainingUnclear, "'a.py' is not among the files"),
        (Train(script="a.py", files={"a.py": ABSENT}), FileMissing, "not uploaded"),
        (digits(num_workers=9), ImpossibleRequest, "can never start here"),
        (digits(parameters={"note": "x" * 4_000, **{f"p{n}": "y" * 4_000 for n in range(9)}}), TrainingUnclear, "long"),
    ],
)
def test_training_that_cannot_be_is_refused_and_leaves_nothing(
    shop: Workshop, ask: Train, error: type[SkyloomError], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)) as caught:
        shop.train(ask)
    assert caught.value.next_action
    assert shop.store.read(lambda view: (view.count(RUNS), view.count(JOBS))) == (0, 0)


def test_dataset_of_another_project_is_not_found(shop: Workshop) -> None:
    with pytest.raises(NotFound):
        shop.train(digits(), BOB)


def test_request_is_bounded_where_it_comes_in() -> None:
    for bad in ({"num_workers": 0}, {"model": "Not A Name"}, {"version": "NO"}, {"script": "../up.py"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"recipe": "image", "dataset": "digits", "target": "label", **bad}, Train)


def test_every_recipe_is_a_module() -> None:
    assert all(importlib.util.find_spec(module) for module in rules.RECIPES.values())


def test_workers_get_room_for_torch() -> None:
    assert digits().resources == Resources(cpus=1, memory_bytes=2 * 2**30)
    assert ANN.project == "p"
