"""The data room over stores, tables and an engine in memory; the test plays the job."""

from pathlib import Path

import msgspec
import pytest

from skyloom.blobs.memory import MemoryBlobs
from skyloom.core.errors import Category, NotFound, SkyloomError
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller, Operation
from skyloom.core.resources import Resources
from skyloom.engines.memory import MemoryEngine
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Change, Outbox
from skyloom.ports.engine import PythonModule
from skyloom.rooms.data import model
from skyloom.rooms.data.making import Clean, Deduplicate, Format, Ingest, SourceFile, Split
from skyloom.rooms.data.model import DatasetState, DraftState, DraftStatus
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.jobs.model import CancelJob, ImpossibleRequest
from skyloom.rooms.jobs.plans import Plans
from skyloom.stores.memory import MemoryStore
from tests.recipes.data_kit import Bench
from tests.rooms.job_rooms import job_rooms

ANN = Caller(principal="ann", project="p", scope="p", rights=frozenset())
BOB = Caller(principal="bob", project="q", scope="q", rights=frozenset())


class House(Bench):
    """The room, and the programs of `Bench` on the same tables."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        store, clock, ids, self.blobs = MemoryStore(), MemoryClock(), CountingIds(), MemoryBlobs()
        self.engine = MemoryEngine(Resources(cpus=4, memory_bytes=8 * 2**30), now=clock.now)
        plans = Plans(self.blobs, "/shared", lambda _: "secret", lambda: "http://127.0.0.1:1")
        outbox = Outbox(clock)
        self.store = store
        self.jobs, self.loop = job_rooms(store, clock, ids, outbox, self.engine, self.blobs, plans)
        self.room = Datasets(store, clock, ids, outbox, self.blobs, self.tables, self.jobs)
        self.handlers = {**self.room.handlers(), **self.jobs.handlers()}

    def do(self, ask: Operation[object], by: Caller | None = None) -> object:
        """Ask as the door does; as the draft's own task where nobody else may, else as Ann."""
        by = by or (self.task_of(ask) if isinstance(ask, model.CommitVersion | model.FailDraft) else ANN)
        handler = self.handlers[type(ask)]
        if not isinstance(handler, Change):
            return handler.run(ask, by)
        if handler.before:
            handler.before(ask, by)
        return self.store.write(lambda tx: handler.run(tx, ask, by))

    def task_of(self, ask: model.CommitVersion | model.FailDraft) -> Caller:
        """The task that makes a draft."""
        draft: DraftStatus = self.do(model.GetDraft(draft_id=ask.draft_id))  # type: ignore[assignment]
        task_id = f"{draft.draft.job_id}.1.0"
        return Caller(principal=task_id, project="p", scope="p", rights=frozenset(), task_id=task_id)

    def asked(self, name: str = "d", by: Caller = ANN, **options: object) -> DraftStatus:
        digest, _ = self.blobs.put([b"n\n1\n2\n2\n"])
        making = Ingest(sources=(SourceFile(path="a.csv", digest=digest),), format=Format.CSV)
        return self.do(model.CreateDataset(name=name, making=making, **options), by)  # type: ignore[arg-type,return-value]

    def made(self, draft: DraftStatus) -> model.CommitVersion:
        """Do the job of an ingest; returns what it would say."""
        import tests.recipes.data_kit as kit

        table = self.do(model.GetDataset(dataset=draft.draft.dataset_id)).table  # type: ignore[attr-defined]
        kit.TABLE = table
        version, contents = self.ingest({"a.csv": "n\n1\n2\n2\n"}, key=draft.draft.id)
        return model.CommitVersion(draft_id=draft.draft.id, number=version.number, contents=contents)

    def dataset(self, name: str = "d") -> model.DatasetStatus:
        return self.do(model.GetDataset(dataset=name))  # type: ignore[return-value]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr("tests.recipes.data_kit.TABLE", "p/d")
    return House(tmp_path)


def test_create_queues_a_job_that_knows_its_draft_and_its_files(house: House) -> None:
    status = house.asked()
    house.loop.tick()
    (plan,) = house.engine.launched
    assert plan.entry == PythonModule(module="skyloom.recipes.version", args=("--draft", status.draft.id))
    assert list(plan.files) == ["sources/0"]
    assert (status.state, house.dataset().state) == (DraftState.WORKING, DatasetState.CREATING)


def test_commit_twice_is_one_version(house: House) -> None:
    said = house.made(house.asked())
    first = house.do(said)
    assert house.do(said) == first
    status = house.dataset()
    assert (status.state, status.num_versions, status.newest) == (DatasetState.READY, 1, first)


def test_commit_of_a_version_that_is_not_in_the_table_is_refused(house: House) -> None:
    draft = house.asked()
    said = house.made(draft)
    for wrong in (
        msgspec.structs.replace(said, number=9),
        msgspec.structs.replace(said, draft_id=house.asked("e").draft.id),
    ):
        with pytest.raises(model.NotCommitted):
            house.do(wrong)
    assert house.dataset().state is DatasetState.CREATING


def test_commit_or_failure_by_anybody_but_its_own_job_is_refused(house: House) -> None:
    draft = house.asked()
    said = house.made(draft)
    other = house.task_of(model.CommitVersion(draft_id=house.asked("e").draft.id, number=1, contents=said.contents))
    failure = model.FailDraft(draft_id=draft.draft.id, code="x", category=Category.INVALID, message="no")
    longer = Caller(principal="t", project="p", scope="p", rights=frozenset(), task_id=f"{draft.draft.job_id}0.1.0")
    for by in (ANN, other, longer):
        for ask in (said, failure):
            with pytest.raises(model.NotItsJob):
                house.do(ask, by)
    assert house.dataset().state is DatasetState.CREATING


def test_failed_draft_says_why_and_a_late_commit_still_counts(house: House) -> None:
    draft = house.asked()
    said = house.made(draft)
    failure = model.FailDraft(
        draft_id=draft.draft.id, code="unreadable_source", category=Category.INVALID, message="a.csv is empty."
    )
    house.do(failure)
    status = house.dataset()
    assert (status.state, status.drafts[0].error.message) == (DatasetState.FAILED, "a.csv is empty.")  # type: ignore[union-attr]
    house.do(said)
    assert house.dataset().state is DatasetState.READY
    assert house.do(failure).state is DraftState.DONE  # type: ignore[attr-defined]


def test_dataset_whose_job_was_cancelled_has_failed_and_its_name_is_free(house: House) -> None:
    draft = house.asked()
    with pytest.raises(model.DatasetExists):
        house.asked()
    house.do(CancelJob(job_id=draft.draft.job_id))
    assert house.dataset().state is DatasetState.FAILED
    again = house.asked()
    assert again.draft.dataset_id == draft.draft.dataset_id
    house.do(house.made(again))
    with pytest.raises(model.DatasetExists):
        house.asked()


def test_create_without_the_bytes_is_refused(house: House) -> None:
    making = Ingest(sources=(SourceFile(path="a.csv", digest="sha256:" + "0" * 64),), format=Format.CSV)
    with pytest.raises(model.SourceMissing, match=r"'a\.csv'"):
        house.do(model.CreateDataset(name="d", making=making))


def test_create_that_can_never_run_is_refused(house: House) -> None:
    with pytest.raises(ImpossibleRequest):
        house.asked(resources=Resources(cpus=99))


def test_change_names_its_base_by_number_tag_or_newest(house: House) -> None:
    house.do(house.made(house.asked()))
    house.do(model.TagVersion(dataset="d", number=1, tag="raw"))
    for base in ("1", "raw", "newest"):
        draft = house.do(model.CleanDataset(dataset="d", making=Clean(steps=(Deduplicate(),)), base=base))
        assert draft.draft.parent == 1  # type: ignore[attr-defined]
    with pytest.raises(model.VersionMissing, match="no version '7'"):
        house.do(model.SplitDataset(dataset="d", making=Split(), base="7"))
    with pytest.raises(SkyloomError, match="no column 'x'"):
        house.do(model.SplitDataset(dataset="d", making=Split(stratify="x")))


@pytest.mark.parametrize("tag", ["newest", "a..b", "a.lock", "1", "a.", "A", "a\n"])
def test_tag_that_a_table_cannot_have_or_that_means_something_else_is_refused(tag: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"dataset": "d", "number": 1, "tag": tag}, model.TagVersion)


@pytest.mark.parametrize("tag", ["a", "newest-good", "v1.2", "a.locked"])
def test_tag_that_is_a_word_is_taken_and_a_table_takes_it_too(house: House, tag: str) -> None:
    house.do(house.made(house.asked()))
    ask = msgspec.convert({"dataset": "d", "number": 1, "tag": tag}, model.TagVersion)
    assert house.do(ask).tags == (tag,)  # type: ignore[attr-defined]


def test_tag_moves_from_version_to_version(house: House) -> None:
    house.do(house.made(house.asked()))
    draft = house.do(model.CleanDataset(dataset="d", making=Clean(steps=(Deduplicate(),))))
    version, contents = house.clean(1, Deduplicate(), key=draft.draft.id)  # type: ignore[attr-defined]
    house.do(model.CommitVersion(draft_id=draft.draft.id, number=version.number, contents=contents))  # type: ignore[attr-defined]
    for number in (1, 2):
        house.do(model.TagVersion(dataset="d", number=number, tag="best"))
    versions = house.do(model.ListVersions(dataset="d")).items  # type: ignore[attr-defined]
    assert [(one.number, one.parent, one.tags) for one in versions] == [(2, 1, ("best",)), (1, None, ())]
    assert house.tables.tags(house.dataset().table) == {"best": 2}


def test_head_shows_rows_with_their_ids(house: House) -> None:
    house.do(house.made(house.asked()))
    rows = house.do(model.HeadRows(dataset="d", limit=2, offset=1))
    assert rows == model.Excerpt(columns=("_rowid", "n"), rows=((1, 2), (2, 2)), num_rows=3)


def test_datasets_of_another_project_are_not_there(house: House) -> None:
    draft = house.asked()
    said = house.made(draft)
    house.do(said)
    asks: list[Operation[object]] = [
        model.GetDataset(dataset="d"),
        model.GetDataset(dataset=draft.draft.dataset_id),
        model.GetDraft(draft_id=draft.draft.id),
        model.GetVersion(dataset=draft.draft.dataset_id),
        model.HeadRows(dataset="d"),
        model.ListVersions(dataset="d"),
        model.TagVersion(dataset="d", number=1, tag="x"),
        model.CleanDataset(dataset=draft.draft.dataset_id, making=Clean(steps=(Deduplicate(),))),
        said,
    ]
    for ask in asks:
        with pytest.raises(NotFound):
            house.do(ask, BOB)
    assert house.do(model.ListDatasets(), BOB).items == ()  # type: ignore[attr-defined]
    house.asked("d", BOB)  # the name is free there


def test_commit_of_a_version_that_another_draft_made_is_refused(house: House) -> None:
    said = house.made(house.asked())
    house.do(said)
    draft = house.do(model.CleanDataset(dataset="d", making=Clean(steps=(Deduplicate(),))))
    with pytest.raises(model.NotCommitted):
        house.do(msgspec.structs.replace(said, draft_id=draft.draft.id))  # type: ignore[attr-defined]
    assert house.dataset().num_versions == 1
