"""Samples become rows exactly once, wherever a replica, a job or the control plane dies; and what may be asked of a sample log."""

import random
from pathlib import Path

import msgspec
import pytest

from skyloom.blobs.memory import MemoryBlobs
from skyloom.core.operation import Caller, Right
from skyloom.ports.door import Query
from skyloom.ports.engine import TaskPhase
from skyloom.recipes.collect import collect
from skyloom.rooms.data.making import Collect
from skyloom.rooms.data.model import CommitVersion, DatasetExists
from skyloom.rooms.data.ports import DATASETS, DRAFTS, VERSIONS
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.sampling import model, rules
from skyloom.rooms.sampling.service import SampleLogs
from skyloom.rooms.serving.model import EndpointMissing
from skyloom.rooms.serving.ports import REPLICAS
from skyloom.rooms.serving.predictions import log_name, starts_of
from skyloom.rooms.serving.samples import Pattern, RequestSampling, SampledRow
from skyloom.stores.replica_files import LocalReplicaFiles
from skyloom.tables.memory import MemoryTables
from tests.rooms.serving.bench import ME, Bench, Crash, MemoryReplicaFiles

STRANGER = Caller(principal="x", project="other", scope="other", rights=frozenset(Right))
SEGMENT_BYTES = 700


class DiskSamples(MemoryReplicaFiles):
    """Replica files of which the samples lie on a disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        real = LocalReplicaFiles(folder, MemoryBlobs())
        self.sampling_path, self.publish_sampling = real.sampling_path, real.publish_sampling  # type: ignore[method-assign]
        self.samples_folder, self.samples = real.samples_folder, real.samples  # type: ignore[method-assign]
        self.remove_samples = real.remove_samples  # type: ignore[method-assign]


class Mill(Bench):
    """A control plane that takes samples into a dataset, and replicas that write them."""

    def __init__(self, folder: Path) -> None:
        self.tables = MemoryTables()
        self.folder = folder
        super().__init__()
        self.files = DiskSamples(folder / "files")
        self.start()
        self.deploy(num_replicas=2)
        self.settle()
        self.endpoint = self.status().endpoint.id
        self.written: list[str] = []
        self.labels: dict[tuple[str, int], str] = {}

    def start(self, phase: str = "", number: int = 0) -> None:
        super().start(phase, number)
        outbox = self.serving._outbox
        self.data = Datasets(self.store, self.clock, self.ids, outbox, self.blobs, self.tables, self.jobs)
        self.samples = SampleLogs(self.store, self.clock, self.data, self.files, self.serving.find, lambda _: "00" * 32)

    def ask(self, operation, by: Caller = ME):
        handler = self.samples.handlers().get(type(operation))
        if handler is None:
            return super().ask(operation)
        if isinstance(handler, Query):
            return handler.run(operation, by)
        return self.store.write(lambda tx: handler.run(tx, operation, by))

    def write(self, replica: str, count: int, torn: bool = False, **values: object) -> None:
        """A replica samples some rows, and may die in the line behind them."""
        folder = Path(self.files.samples_folder(self.endpoint))
        folder.mkdir(parents=True, exist_ok=True)
        starts = starts_of(replica, [path.name for path in folder.iterdir()]) or [0]
        path = folder / log_name(replica, starts[-1])
        if path.exists() and path.stat().st_size > SEGMENT_BYTES:
            path = folder / log_name(replica, starts[-1] + path.stat().st_size)
        with path.open("ab") as file:
            if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
                file.write(b"\n")
            for _ in range(count):
                name = f"pred_{replica.removeprefix('rep_')}_{len(self.written)}"
                self.written.append(name)
                row = SampledRow(
                    prediction_id=name,
                    row=0,
                    at=self.clock.now(),
                    said="cat",
                    values={"x": len(self.written), **values},
                )
                file.write(msgspec.json.encode(row) + b"\n")
            file.write(b'{"type":"row","predi' if torn else b"")

    def work(self, draft, dies: str = "") -> None:
        """The job of a draft does what the draft says, or dies on its way."""
        running = [one for one in self.engine.known() if one.startswith(f"{draft.job_id}.")]
        seen = self.engine.observe(running)
        for task_id in running:
            if seen[task_id].phase is not TaskPhase.RUNNING:
                continue
            if dies != "before":
                dataset = self.disk.read(lambda view: view.get(DATASETS, draft.dataset_id))
                place = self.folder / f"work.{len(list(self.folder.iterdir()))}"
                place.mkdir()  # the tables keep pages of its files
                samples, base = Path(self.files.samples_folder(self.endpoint)), draft.parent
                version, contents = collect(
                    draft.making, self.tables, dataset.table, base, draft.id, samples, place, self.labels
                )
                if not dies:
                    told = CommitVersion(draft_id=draft.id, number=version.number, contents=contents)
                    by = msgspec.structs.replace(ME, task_id=task_id)
                    self.store.write(lambda tx, told=told, by=by: self.data.commit(tx, told, by))
            self.engine.finish(task_id, exit_code=1 if dies else 0)

    def drafts(self):
        return self.disk.read(lambda view: view.select(DRAFTS))

    def versions(self):
        return self.disk.read(lambda view: view.select(VERSIONS))

    def rows(self) -> list[dict]:
        newest = self.versions()[-1]
        dataset = self.disk.read(lambda view: view.get(DATASETS, newest.dataset_id))
        return self.tables.head(dataset.table, newest.number, 10**6).to_pylist()

    def taken(self) -> None:
        """All that waits is taken."""
        for _ in range(30):
            self.samples.tick()
            self.loop.tick()
            for draft in self.drafts():
                if draft.number is None:
                    self.work(draft)
            self.loop.tick()
            self.clock.advance(60)

    def replica_ids(self) -> list[str]:
        return [item.id for item in self.disk.read(lambda view: view.select(REPLICAS))]


@pytest.fixture
def mill(tmp_path):
    return Mill(tmp_path)


def log_to(mill, dataset="kept", by=ME, name="toy", **told):
    return mill.ask(model.LogTo(name=name, dataset=dataset, every_s=60, **told), by)


@pytest.mark.parametrize("seed", range(12))
def test_each_sampled_row_is_in_the_dataset_once_wherever_anybody_dies(tmp_path, seed):
    dice, mill = random.Random(seed), Mill(tmp_path)
    log_to(mill)
    crashes = 0
    for _ in range(40):
        turn = dice.choice(["write", "write", "tick", "tick", "work", "jobs", "crash"])
        if turn == "write":
            mill.write(dice.choice(mill.replica_ids()), dice.randint(1, 4), torn=dice.random() < 0.3)
        elif turn == "tick":
            mill.samples.tick()
        elif turn == "jobs":
            mill.loop.tick()
        elif turn == "work":
            for draft in mill.drafts():
                if draft.number is None:
                    mill.work(draft, dice.choice(["", "before", "after"]))
        else:
            mill.start(dice.choice(["before", "after"]), 1)
            try:
                mill.samples.tick()
                mill.loop.tick()
            except Crash:
                crashes += 1
            mill.start()
        mill.clock.advance(40)
    mill.taken()
    found = [row["prediction_id"] for row in mill.rows()]
    assert sorted(found) == sorted(mill.written), f"after {crashes} crashes"
    assert len({row["_rowid"] for row in mill.rows()}) == len(found)


def test_row_keeps_its_id_and_old_rows_and_those_beyond_the_bound_are_left_out(mill):
    log_to(mill, keep_days=1.0, max_rows=4)
    replica = mill.replica_ids()[0]
    mill.write(replica, 3)
    mill.taken()
    before = {row["prediction_id"]: row["_rowid"] for row in mill.rows()}
    mill.write(replica, 2)
    mill.taken()
    after = {row["prediction_id"]: row["_rowid"] for row in mill.rows()}
    assert list(after) == mill.written[-4:] and all(after[name] == before[name] for name in mill.written[1:3])
    mill.clock.advance(86_400)
    mill.write(replica, 1)
    mill.taken()
    assert [row["prediction_id"] for row in mill.rows()] == mill.written[-1:]
    row = mill.rows()[0]
    assert (row["revision"], row["prediction"], row["x"]) == (1, "cat", 6.0)
    assert row["model_version"].startswith("sha256:")


def test_what_was_taken_is_removed_and_the_newest_segment_of_a_live_replica_stays(mill):
    log_to(mill)
    first, second = mill.replica_ids()
    for _ in range(5):
        mill.write(first, 4)
        mill.write(second, 4)
    mill.taken()
    folder = Path(mill.files.samples_folder(mill.endpoint))
    assert len(list(folder.iterdir())) == 2
    mill.stop()
    mill.settle(12)
    mill.samples.tick()
    assert list(folder.iterdir()) == []
    status = mill.ask(model.GetSampling(name="toy"))
    assert (status.waiting_bytes, status.num_rows, status.draft) == (0, 40, "")


def test_whole_numbers_that_no_float_says_are_kept_as_they_are(mill):
    log_to(mill)
    replica = mill.replica_ids()[0]
    mill.write(replica, 1, user=2**53 + 1, tokens=[1, 2])
    mill.write(replica, 1, user=7, tokens=[2**24 + 1, 2])
    mill.taken()
    mill.write(replica, 1, user=8, tokens=[3, 2**60 + 1])
    mill.write(replica, 1, x=2**60 + 1, tokens=[4, 5])
    mill.taken()
    first, second, third, fourth = mill.rows()
    assert (first["user"], second["user"], third["user"]) == (str(2**53 + 1), "7", "8")
    assert (first["tokens"], second["tokens"], fourth["tokens"]) == ([1, 2], [2**24 + 1, 2], [4, 5])
    assert (third["tokens__2"], fourth["x__2"]) == (f"[3,{2**60 + 1}]", str(2**60 + 1))


def test_labels_come_to_rows_that_were_there_already_and_stay(mill):
    log_to(mill)
    replica = mill.replica_ids()[0]
    mill.write(replica, 2)
    mill.taken()
    mill.labels = {(mill.written[0], 0): "dog"}
    mill.write(replica, 1)
    mill.taken()
    mill.labels = {(mill.written[2], 0): "cow"}
    mill.write(replica, 1)
    mill.taken()
    assert [row["label"] for row in mill.rows()] == ["dog", None, "cow", None]


def test_turned_off_nothing_is_kept_and_what_waits_is_still_taken(mill):
    log_to(mill)
    mill.samples.tick()
    assert Path(mill.files.sampling_path(mill.endpoint)).exists()
    mill.write(mill.replica_ids()[0], 3)
    assert mill.ask(model.LogOff(name="toy")).log.active is False
    mill.taken()
    assert not Path(mill.files.sampling_path(mill.endpoint)).exists()
    assert len(mill.rows()) == 3 and len(mill.versions()) == 1


def test_another_dataset_takes_only_what_the_first_has_not(mill):
    log_to(mill)
    replica = mill.replica_ids()[0]
    mill.write(replica, 3)
    mill.taken()
    mill.write(replica, 2)
    log_to(mill, dataset="second")
    mill.taken()
    assert [row["prediction_id"] for row in mill.rows()] == mill.written[3:]
    log_to(mill)
    mill.write(replica, 1)
    mill.taken()
    assert [row["prediction_id"] for row in mill.rows()] == [*mill.written[:3], mill.written[5]]


def test_what_cannot_be_meant_is_refused_in_words(mill):
    with pytest.raises(model.SamplingUnclear, match="no column 'name'"):
        log_to(mill, sampling=RequestSampling(drop=("name",)))
    with pytest.raises(model.SamplingUnclear, match="two ways"):
        log_to(mill, sampling=RequestSampling(drop=("x",), mask={"x": (Pattern.EMAIL,)}))
    with pytest.raises(model.NotSampled):
        mill.ask(model.GetSampling(name="toy"))
    log_to(mill)
    mill.deploy(name="second")
    with pytest.raises(model.SamplesTaken, match="samples of toy"):
        log_to(mill, name="second")
    for ask in (model.GetSampling(name="toy"), model.CollectSamples(name="toy"), model.LogOff(name="toy")):
        with pytest.raises(EndpointMissing):
            mill.ask(ask, STRANGER)


def test_dataset_of_another_kind_is_not_written_to(mill):
    log_to(mill)
    mill.write(mill.replica_ids()[0], 1)
    mill.taken()
    (version,) = mill.versions()
    from skyloom.ports.store import changed
    from skyloom.rooms.data.making import Split

    mill.disk.write(lambda tx: tx.update(VERSIONS, changed(version, {"making": Split()})))
    mill.ask(model.LogOff(name="toy"))
    with pytest.raises(DatasetExists, match="no samples"):
        log_to(mill)


def test_new_columns_are_told_and_nothing_is_begun_without_rows(mill):
    log_to(mill)
    mill.ask(model.CollectSamples(name="toy"))
    mill.samples.tick()
    assert mill.drafts() == [] and not mill.ask(model.GetSampling(name="toy")).log.asked


def test_ranges_begin_where_the_last_ended_and_unknown_replicas_are_left_alone():
    known = {"a": (1, "sha256:" + "0" * 64), "b": (2, "sha256:" + "1" * 64)}
    samples = {"a": (0, 90), "b": (50, 80), "c": (0, 10)}
    ranges = rules.new_ranges(samples, {"a": 40, "b": 80}, known)
    assert [(one.replica, one.start, one.stop) for one in ranges] == [("a", 40, 90)]
    assert rules.taken_after(samples, {"a": 40, "b": 80, "gone": 7}, ranges) == {"a": 90, "b": 80}
    assert isinstance(Collect(endpoint="e", name="n", ranges=ranges), Collect)
