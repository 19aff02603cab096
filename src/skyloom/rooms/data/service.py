"""The service of data: asks jobs to make versions, and takes in what they made.

Rows never come here: a job writes them into the table, under the draft's id as the key, and then says so. When it dies between the two, its
next attempt finds the version in the table and only says so.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from skyloom.core.errors import ErrorBody, SkyloomError
from skyloom.core.events import DatasetVersionMade, Moved, Noted
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Page
from skyloom.core.resources import Resources
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.engine import PythonModule
from skyloom.ports.lookup import listed, named, owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.ports.tables import ROW_ID, Tables
from skyloom.rooms.data import model, rules
from skyloom.rooms.data.making import Clean, Collect, Ingest, Making, Predict, Split
from skyloom.rooms.data.model import Dataset, DatasetVersion, Draft, DraftStatus
from skyloom.rooms.data.ports import DATASETS, DRAFTS, PROGRAM, VERSIONS
from skyloom.rooms.jobs.model import ENDED, JobSpec, SubmitJob
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.pools.model import LOCAL

_RETRIES = 2
_SHOWN_DRAFTS = 20


class Datasets:
    """Datasets of all projects."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        outbox: Outbox,
        blobs: Blobs,
        tables: Tables,
        jobs: Jobs,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._blobs = blobs
        self._tables = tables
        self._jobs = jobs

    def handlers(self) -> Handlers:
        return {
            model.CreateDataset: Change(self.create, before=self.check_create),
            model.CleanDataset: Change(self.change, before=self.check_change),
            model.SplitDataset: Change(self.change, before=self.check_change),
            model.GetDraft: Query(self.get_draft),
            model.CommitVersion: Change(self.commit, before=self.check_commit),
            model.FailDraft: Change(self.fail),
            model.ListDatasets: Query(self.list),
            model.GetDataset: Query(self.get),
            model.ListVersions: Query(self.list_versions),
            model.GetVersion: Query(self.get_version),
            model.HeadRows: Query(self.head),
            model.TagVersion: Change(self.tag, before=self.check_tag),
        }

    # Asking for a version

    def check_create(self, ask: model.CreateDataset, by: Caller) -> None:
        """Refuse files that were not uploaded, and a job that could never start."""
        for source in ask.making.sources:
            if self._blobs.size(source.digest) is None:
                raise model.SourceMissing(
                    f"The bytes of {source.path!r} were not uploaded.", next_action="Upload the file, then ask again."
                )
        self._jobs.check(SubmitJob(spec=self._job("draft_0", ask.making, ask.resources, ask.name)), by)

    def create(self, tx: Transaction, ask: model.CreateDataset, by: Caller) -> DraftStatus:
        dataset = named(tx, DATASETS, ask.name, by.project)
        if dataset is None:
            dataset = self._insert(tx, ask.name, ask.description, by)
        elif self.status(tx, dataset).state is not model.DatasetState.FAILED:
            raise model.DatasetExists(
                f"There is a dataset {ask.name!r} already.", next_action="Choose another name, or clean that one."
            )
        return self._draft(tx, dataset, None, ask.making, ask.resources, by)

    def check_change(self, ask: model.CleanDataset | model.SplitDataset, by: Caller) -> None:
        """Refuse a job that could never start."""
        self._jobs.check(SubmitJob(spec=self._job("draft_0", ask.making, ask.resources, ask.dataset)), by)

    def change(self, tx: Transaction, ask: model.CleanDataset | model.SplitDataset, by: Caller) -> DraftStatus:
        dataset = self.find(tx, ask.dataset, by.project)
        base = rules.version_of(self._versions(tx, dataset), ask.base, dataset.name)
        rules.check(ask.making, base.contents.columns)
        return self._draft(tx, dataset, base.number, ask.making, ask.resources, by)

    def _draft(
        self, tx: Transaction, dataset: Dataset, parent: int | None, making: Making, resources: Resources, by: Caller
    ) -> DraftStatus:
        draft_id = self._ids.new("draft")
        spec = self._job(draft_id, making, resources, dataset.name)
        job_id = self._jobs.submit(tx, SubmitJob(spec=spec), by).job.id
        return self._insert_draft(tx, draft_id, dataset, parent, making, job_id, by)

    def derive(self, tx: Transaction, name: str, making: Predict, job_id: str, by: Caller) -> DraftStatus:
        """Begin a version of what a job makes from another dataset, under a name that is new or holds such versions. Once for each job.

        Raises `DatasetExists`.
        """
        begun = tx.select(DRAFTS, {"job_id": job_id}, limit=1)
        if begun:
            return self._draft_status(tx, begun[0])
        dataset = named(tx, DATASETS, name, by.project) or self._insert(tx, name, "", by)
        versions = self._versions(tx, dataset)
        if versions and not isinstance(versions[0].making, Predict):
            raise model.DatasetExists(
                f"There is a dataset {name!r} already, and it holds no predictions.", next_action="Choose another name."
            )
        return self._insert_draft(tx, self._ids.new("draft"), dataset, None, making, job_id, by)

    def gather(
        self, tx: Transaction, name: str, making: Collect, spec: Callable[[str], JobSpec], by: Caller
    ) -> DraftStatus:
        """Begin a version of what replicas sampled, under a name that is new or holds such versions, behind the newest of them.

        Args:
            spec: the job that makes it, by the draft's id.

        Raises `DatasetExists`, and what submitting a job raises.
        """
        dataset = named(tx, DATASETS, name, by.project) or self._insert(tx, name, "", by)
        newest = self.newest_collected(tx, name, by.project)
        if newest is None and self._versions(tx, dataset):
            raise not_collected(name)
        draft_id = self._ids.new("draft")
        job_id = self._jobs.submit(tx, SubmitJob(spec=spec(draft_id)), by).job.id
        return self._insert_draft(tx, draft_id, dataset, newest.number if newest else None, making, job_id, by)

    def newest_collected(self, view: Snapshot, name: str, project: str) -> DatasetVersion | None:
        """The newest version of a dataset that was made of samples; None when there is none, or no such dataset."""
        dataset = named(view, DATASETS, name, project)
        found = self._versions(view, dataset) if dataset is not None else ()
        return next((version for version in reversed(found) if isinstance(version.making, Collect)), None)

    def has_versions(self, view: Snapshot, name: str, project: str) -> bool:
        """There is a dataset of this name, and it has a version."""
        dataset = named(view, DATASETS, name, project)
        return dataset is not None and bool(self._versions(view, dataset))

    def being_collected(self, view: Snapshot, name: str, project: str) -> Draft | None:
        """The newest draft of samples of a dataset, as long as its job may still commit it."""
        dataset = named(view, DATASETS, name, project)
        drafts = (
            view.select(DRAFTS, {"dataset_id": dataset.id}, newest_first=True, limit=_SHOWN_DRAFTS) if dataset else ()
        )
        for draft in drafts:
            if isinstance(draft.making, Collect):
                return draft if draft.number is None and self._job_ended(view, draft) is None else None
        return None

    def _insert(self, tx: Transaction, name: str, description: str, by: Caller) -> Dataset:
        dataset = Dataset(
            id=self._ids.new("dataset"),
            project=by.project,
            name=name,
            description=description,
            created_at=self._clock.now(),
            created_by=by.principal,
        )
        return tx.insert(DATASETS, dataset)

    def _insert_draft(
        self,
        tx: Transaction,
        draft_id: str,
        dataset: Dataset,
        parent: int | None,
        making: Making,
        job_id: str,
        by: Caller,
    ) -> DraftStatus:
        draft = Draft(
            id=draft_id,
            project=by.project,
            dataset_id=dataset.id,
            parent=parent,
            making=making,
            job_id=job_id,
            created_at=self._clock.now(),
            created_by=by.principal,
        )
        return self._draft_status(tx, tx.insert(DRAFTS, draft))

    def _job(self, draft_id: str, making: Making, resources: Resources, name: str) -> JobSpec:
        verbs: Mapping[type, str] = {Ingest: "ingest", Clean: "clean", Split: "split"}
        sources = making.sources if isinstance(making, Ingest) else ()
        return JobSpec(
            name=f"{verbs[type(making)]} {name}",
            entry=PythonModule(module=PROGRAM, args=("--draft", draft_id)),
            files={f"sources/{number}": source.digest for number, source in enumerate(sources)},
            resources=resources,
            max_retries=_RETRIES,
            labels={"dataset": name},
            pools=(LOCAL,),  # where the tables are
        )

    # Taking in what a job made

    def check_commit(self, ask: model.CommitVersion, by: Caller) -> None:
        """Refuse a version that is not in the table. Opening the table to read its key would cost the control plane 100 MB."""
        draft, dataset = self._store.read(lambda view: self._draft_of(view, ask.draft_id, by.project))
        _check_job(draft, by)
        if not self._tables.holds(dataset.table, ask.number):
            raise not_committed(dataset, ask.number)

    def commit(self, tx: Transaction, ask: model.CommitVersion, by: Caller) -> DatasetVersion:
        draft, dataset = self._draft_of(tx, ask.draft_id, by.project)
        _check_job(draft, by)
        if draft.number is not None:
            return self._version(tx, dataset, str(draft.number))
        if tx.select(VERSIONS, {"dataset_id": dataset.id, "number": ask.number}):
            raise not_committed(dataset, ask.number)  # another draft made it
        before = self.status(tx, dataset).state
        tx.update(DRAFTS, changed(draft, {"number": ask.number}))
        version = tx.insert(
            VERSIONS,
            DatasetVersion(
                id=self._ids.new("dv"),
                project=by.project,
                dataset_id=dataset.id,
                number=ask.number,
                parent=draft.parent,
                making=draft.making,
                job_id=draft.job_id,
                contents=ask.contents,
                created_at=self._clock.now(),
            ),
        )
        if before is not model.DatasetState.READY:
            self._outbox.publish(tx, by.project, dataset.id, Moved(before=before, after=model.DatasetState.READY))
        made = DatasetVersionMade(dataset=dataset.name, number=ask.number, job_id=draft.job_id)
        self._outbox.publish(tx, by.project, dataset.id, made)
        return version

    def fail(self, tx: Transaction, ask: model.FailDraft, by: Caller) -> DraftStatus:
        draft, dataset = self._draft_of(tx, ask.draft_id, by.project)
        _check_job(draft, by)
        if draft.number is None and draft.error is None:
            error = ErrorBody(code=ask.code, category=ask.category, message=ask.message, next_action=ask.next_action)
            draft = tx.update(DRAFTS, changed(draft, {"error": error}))
            self._outbox.publish(tx, by.project, dataset.id, Noted(message=error.message))
        return self._draft_status(tx, draft)

    def check_tag(self, ask: model.TagVersion, by: Caller) -> None:
        """Put the tag into the table too, where every Lance reader sees it. Done twice it is the same."""
        dataset, version = self._store.read(lambda view: self.version(view, ask.dataset, str(ask.number), by.project))
        self._tables.tag(dataset.table, ask.tag, version.number)

    def tag(self, tx: Transaction, ask: model.TagVersion, by: Caller) -> DatasetVersion:
        dataset, version = self.version(tx, ask.dataset, str(ask.number), by.project)
        for other in self._versions(tx, dataset):
            if ask.tag in other.tags and other.id != version.id:
                tx.update(VERSIONS, changed(other, {"tags": tuple(tag for tag in other.tags if tag != ask.tag)}))
        return tx.update(VERSIONS, changed(version, {"tags": tuple(sorted({*version.tags, ask.tag}))}))

    # Looking

    def find(self, view: Snapshot, dataset: str, project: str) -> Dataset:
        """Return a dataset by name or id. Raises `DatasetMissing`."""
        found = owned(view, DATASETS, dataset, project) or named(view, DATASETS, dataset, project)
        if found is None:
            raise model.DatasetMissing(
                f"There is no dataset {dataset!r}.", next_action="List yours: skyloom data list."
            )
        return found

    def version(self, view: Snapshot, dataset: str, reference: str, project: str) -> tuple[Dataset, DatasetVersion]:
        """Return a dataset and one of its versions by number, tag or ``newest``. Raises `DatasetMissing`, `VersionMissing`."""
        holder = self.find(view, dataset, project)
        return holder, self._version(view, holder, reference)

    def status(self, view: Snapshot, dataset: Dataset) -> model.DatasetStatus:
        """Return a dataset and what has become of it."""
        versions = self._versions(view, dataset)
        found = view.select(DRAFTS, {"dataset_id": dataset.id}, newest_first=True, limit=_SHOWN_DRAFTS)
        drafts = [self._draft_status(view, draft) for draft in found if draft.number is None]
        shown = [one for one in drafts if one.state is model.DraftState.WORKING] or drafts[:1]
        return model.DatasetStatus(
            dataset=dataset,
            state=rules.dataset_state(len(versions), drafts),
            table=dataset.table,
            newest=versions[-1] if versions else None,
            num_versions=len(versions),
            drafts=tuple(shown),
        )

    def get(self, ask: model.GetDataset, by: Caller) -> model.DatasetStatus:
        return self._store.read(lambda view: self.status(view, self.find(view, ask.dataset, by.project)))

    def list(self, ask: model.ListDatasets, by: Caller) -> Page[model.DatasetStatus]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, DATASETS, where, ask).shown(partial(self.status, view)))

    def get_draft(self, ask: model.GetDraft, by: Caller) -> DraftStatus:
        return self._store.read(
            lambda view: self._draft_status(view, self._draft_of(view, ask.draft_id, by.project)[0])
        )

    def list_versions(self, ask: model.ListVersions, by: Caller) -> Page[DatasetVersion]:
        def work(view: Snapshot) -> Page[DatasetVersion]:
            where = {"dataset_id": self.find(view, ask.dataset, by.project).id}
            return listed(view, VERSIONS, where, ask)

        return self._store.read(work)

    def get_version(self, ask: model.GetVersion, by: Caller) -> DatasetVersion:
        return self._store.read(lambda view: self.version(view, ask.dataset, ask.reference, by.project))[1]

    def head(self, ask: model.HeadRows, by: Caller) -> model.Excerpt:
        dataset, version = self._store.read(lambda view: self.version(view, ask.dataset, ask.reference, by.project))
        columns = {column.name: column for column in version.contents.columns}
        limit = rules.rows_shown(columns.values(), ask.limit)
        table = self._tables.head(dataset.table, version.number, limit, ask.offset)
        names = [ROW_ID, *columns]
        values = [_cells(table.column(name), columns[name].shape if name in columns else ()) for name in names]
        return model.Excerpt(
            columns=tuple(names), rows=tuple(zip(*values, strict=True)), num_rows=version.contents.num_rows
        )

    def _version(self, view: Snapshot, dataset: Dataset, reference: str) -> DatasetVersion:
        return rules.version_of(self._versions(view, dataset), reference, dataset.name)

    def _versions(self, view: Snapshot, dataset: Dataset) -> Sequence[DatasetVersion]:
        return view.select(VERSIONS, {"dataset_id": dataset.id})

    def _draft_of(self, view: Snapshot, draft_id: str, project: str) -> tuple[Draft, Dataset]:
        draft = view.get(DRAFTS, draft_id)
        dataset = view.get(DATASETS, draft.dataset_id) if draft and draft.project == project else None
        if draft is None or dataset is None:
            raise model.DraftMissing(f"There is no draft {draft_id}.", next_action="List datasets: skyloom data list.")
        return draft, dataset

    def _draft_status(self, view: Snapshot, draft: Draft) -> DraftStatus:
        return rules.draft_status(draft, None if draft.number is not None else self._job_ended(view, draft))

    def _job_ended(self, view: Snapshot, draft: Draft) -> str | None:
        try:
            status = self._jobs.status(view, draft.job_id, draft.project)
        except SkyloomError as gone:
            return gone.message
        return (status.message or status.reason.value) if status.state in ENDED else None


def _check_job(draft: Draft, by: Caller) -> None:
    """Raise `NotItsJob` unless a task of the draft's own job asks."""
    if not by.is_task_of(draft.job_id):
        raise model.NotItsJob(
            f"{by.principal} is no task of {draft.job_id}, which makes this version.",
            next_action="Ask for a version with skyloom data create, clean or split; its job commits it.",
        )


def not_collected(name: str) -> model.DatasetExists:
    """The error for a dataset whose versions are not of samples."""
    return model.DatasetExists(
        f"There is a dataset {name!r} already, and it holds no samples of requests.", next_action="Choose another name."
    )


def not_committed(dataset: Dataset, number: int) -> model.NotCommitted:
    """The error for a version that this draft did not make."""
    return model.NotCommitted(
        f"The table of {dataset.name!r} has no version {number} that this draft made.",
        next_action="Commit the rows first, under the draft's id as the key.",
    )


def _cells(column: Any, shape: tuple[int, ...]) -> "list[bool | int | float | str | None]":
    """A column as JSON values; pixels straight from their buffer, never one by one."""
    if shape:
        return [rules.cell(value.values.to_numpy().tobytes() if value.is_valid else None, shape) for value in column]
    return [rules.cell(value.as_py()) for value in column]
