import pytest

from skyloom.core.operation import Caller
from skyloom.ports.series import Point
from skyloom.rooms.jobs.model import JobState
from skyloom.rooms.tracking.model import GetRun, GetSeries, ListRuns, LogMeasurements, RunMissing
from skyloom.rooms.training.model import Train
from tests.rooms.workshop import ANN, BOB, Workshop


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


def batch(run_id: str, sequence: int, *points: Point) -> LogMeasurements:
    return LogMeasurements(run_id=run_id, source="task_1.ab", sequence=sequence, points=points)


def start(shop: Workshop) -> str:
    return shop.train(Train(recipe="image", dataset="digits", target="label")).run.id


def test_measurements_show_in_the_run_and_in_its_series(shop: Workshop) -> None:
    run_id = start(shop)
    first, second = Point("loss", 1, 5.0, 0.5), Point("loss", 2, 6.0, 0.25)
    shop.tracking.log(batch(run_id, 1, first), ANN)
    shop.tracking.log(batch(run_id, 1, first), ANN)
    shop.tracking.log(batch(run_id, 2, second), ANN)
    assert shop.tracking.get(GetRun(run_id=run_id), ANN).latest == {"loss": second}
    assert shop.tracking.series(GetSeries(run_id=run_id, name="loss"), ANN).points == (first, second)
    assert shop.tracking.series(GetSeries(run_id=run_id, after_step=1), ANN).points == (second,)


def test_run_has_the_state_of_its_job(shop: Workshop) -> None:
    run_id = start(shop)
    shop.loop.tick()
    shop.loop.tick()
    assert shop.tracking.get(GetRun(run_id=run_id), ANN).state is JobState.RUNNING
    shop.engine.finish(shop.engine.launched[0].task_id)
    shop.loop.tick()
    assert shop.tracking.get(GetRun(run_id=run_id), ANN).state is JobState.SUCCEEDED


def test_runs_are_listed_newest_first_in_pages(shop: Workshop) -> None:
    made = [start(shop) for _ in range(5)]
    page = shop.tracking.list(ListRuns(limit=3), ANN)
    rest = shop.tracking.list(ListRuns(limit=3, cursor=page.next_cursor), ANN)
    assert [item.run.id for item in (*page.items, *rest.items)] == made[::-1]
    assert rest.next_cursor is None
    assert shop.tracking.list(ListRuns(dataset="other"), ANN).items == ()


def test_run_of_another_project_does_not_exist(shop: Workshop) -> None:
    run_id = start(shop)
    for look in (
        lambda: shop.tracking.get(GetRun(run_id=run_id), BOB),
        lambda: shop.tracking.series(GetSeries(run_id=run_id), BOB),
        lambda: shop.tracking.log(batch(run_id, 1), BOB),
    ):
        with pytest.raises(RunMissing):
            look()
    assert shop.tracking.list(ListRuns(), BOB).items == ()


def test_task_may_report_to_its_own_run_only(shop: Workshop) -> None:
    run_id, other = start(shop), start(shop)
    job_id = shop.tracking.get(GetRun(run_id=run_id), ANN).run.job_id
    task = Caller(principal="t", project="p", scope="p", rights=frozenset(), task_id=f"{job_id}.1.0")
    shop.tracking.log(batch(run_id, 1, Point("loss", 1, 5.0, 0.5)), task)
    with pytest.raises(RunMissing):
        shop.tracking.log(batch(other, 1, Point("loss", 1, 5.0, 0.5)), task)
