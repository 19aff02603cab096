"""Nouns of data: a dataset is a table; its versions never change; a draft is a version in the making.

No state is stored: a draft's follows from its version, its error and its job (`rules.draft_status`), a dataset's from its versions and
drafts (`rules.dataset_state`), so that they cannot disagree.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Cursor, Id, Limit, Name, ShortText, Text
from skyloom.core.errors import AlreadyExists, Category, Conflict, Denied, ErrorBody, InvalidInput, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.core.resources import Resources
from skyloom.ports.store import Record
from skyloom.rooms.data.contents import Contents
from skyloom.rooms.data.making import Clean, Ingest, Making, Split

NEWEST = "newest"
MAKING_RESOURCES = Resources(cpus=1, memory_bytes=2 * 2**30)  # enough: rows stream through files
Reference = Annotated[
    str, Meta(min_length=1, max_length=80, pattern=r"^[a-z0-9._-]+$(?!\n)", description="A number, a tag, or `newest`.")
]
# Tags lie in the tables too, which take no ".." and no ".lock" at the end; and "newest" means a version already.
Tag = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=80,
        pattern=r"^(?!newest$)(?!.*\.\.)(?!.*\.lock$)[a-z]([a-z0-9._-]*[a-z0-9])?$(?!\n)",
        description="Starts with a letter; lower-case letters, digits, single dots, dashes and underscores.",
    ),
]


class DatasetMissing(NotFound):
    """No such dataset in this project."""


class VersionMissing(NotFound):
    """The dataset has no such version."""


class DraftMissing(NotFound):
    """No such draft in this project."""


class DatasetExists(AlreadyExists):
    """The name is taken by a dataset that holds data."""


class SourceMissing(InvalidInput):
    """A source file was never uploaded."""


class NotItsJob(Denied):
    """Only the job that makes a version may say what became of it."""


class NotCommitted(Conflict):
    """The table holds no such version that this draft made."""


class DraftState(enum.StrEnum):
    """The life of a draft; always derived. A late commit turns a failed one into a done one; done is for ever."""

    WORKING = "working"
    DONE = "done"
    FAILED = "failed"


class DatasetState(enum.StrEnum):
    """What a dataset is good for now; always derived."""

    CREATING = "creating"
    READY = "ready"
    FAILED = "failed"


class Dataset(Record, frozen=True, kw_only=True):
    """A name for versions of one table."""

    name: Name
    description: ShortText = ""
    created_at: float
    created_by: str

    @property
    def table(self) -> str:
        """Where its rows are, for `skyloom.ports.tables.Tables`."""
        return f"{self.project}/{self.id}"


class Draft(Record, frozen=True, kw_only=True):
    """A version in the making, and afterwards how it was made.

    Attributes:
        parent: number of the version it is made from; None when it is made from files.
        job_id: the job that makes it.
        number: of the version that came out.
        error: why its program gave up.
    """

    dataset_id: str
    parent: int | None
    making: Making
    job_id: str
    number: int | None = None
    error: ErrorBody | None = None
    created_at: float
    created_by: str


class DatasetVersion(Record, frozen=True, kw_only=True):
    """One version. Its id is ``<dataset id>.<number>``.

    Attributes:
        number: of the table's version; numbers may have gaps.
        parent: number of the version it was made from; None when it was made from files.
        making: what made it, with all parameters.
        tags: names that point at it, each at one version of a dataset.
    """

    dataset_id: str
    number: int
    parent: int | None
    making: Making
    job_id: str
    contents: Contents
    created_at: float
    tags: tuple[str, ...] = ()


class DraftStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A draft and what has become of it.

    Attributes:
        error: why it failed, from its program or from its job.
    """

    draft: Draft
    state: DraftState
    error: ErrorBody | None = None


class DatasetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset and what has become of it.

    Attributes:
        table: name of its table, for programs that read rows themselves.
        newest: its newest version.
        drafts: what is in the making, and when nothing else came of it the last that failed.
    """

    dataset: Dataset
    state: DatasetState
    table: str
    newest: DatasetVersion | None = None
    num_versions: int = 0
    drafts: tuple[DraftStatus, ...] = ()


class Excerpt(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows of a version.

    Attributes:
        columns: their names, the stable row id first.
        rows: JSON values in the order of ``columns``; images and other bulk as a text with their shape and digest.
        num_rows: of the whole version.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[bool | int | float | str | None, ...], ...]
    num_rows: int


@operation("data.create", Right.RUN, "POST /datasets")
class CreateDataset(Operation[DraftStatus], frozen=True, kw_only=True):
    """Make a dataset from uploaded files. The answer is the draft; a job reads the files, and commits the version or fails."""

    name: Name
    making: Ingest
    description: ShortText = ""
    resources: Resources = MAKING_RESOURCES


@operation("data.clean", Right.RUN, "POST /datasets/{dataset}/clean")
class CleanDataset(Operation[DraftStatus], frozen=True, kw_only=True):
    """Make a cleaned version of a version."""

    dataset: Id
    making: Clean
    base: Reference = NEWEST
    resources: Resources = MAKING_RESOURCES


@operation("data.split", Right.RUN, "POST /datasets/{dataset}/split")
class SplitDataset(Operation[DraftStatus], frozen=True, kw_only=True):
    """Make a version whose rows are divided into train, validation and test."""

    dataset: Id
    making: Split = Split()
    base: Reference = NEWEST
    resources: Resources = MAKING_RESOURCES


@operation("data.draft", Right.READ, "GET /drafts/{draft_id}")
class GetDraft(Operation[DraftStatus], frozen=True, kw_only=True):
    """Show a draft."""

    draft_id: Id


@operation("data.commit", Right.WRITE, "POST /drafts/{draft_id}/commit")
class CommitVersion(Operation[DatasetVersion], frozen=True, kw_only=True):
    """Say that a draft's version is in the table. For the job that made it; safe to repeat."""

    draft_id: Id
    number: Annotated[int, Meta(ge=1, le=2**53)]
    contents: Contents


@operation("data.fail", Right.WRITE, "POST /drafts/{draft_id}/fail")
class FailDraft(Operation[DraftStatus], frozen=True, kw_only=True):
    """Say why a draft cannot be made. For the job that tried."""

    draft_id: Id
    code: Id
    category: Category
    message: Text
    next_action: Text = ""


@operation("data.list", Right.READ, "GET /datasets")
class ListDatasets(Operation[Page[DatasetStatus]], frozen=True, kw_only=True):
    """List datasets, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


@operation("data.get", Right.READ, "GET /datasets/{dataset}")
class GetDataset(Operation[DatasetStatus], frozen=True, kw_only=True):
    """Show a dataset by name or id."""

    dataset: Id


@operation("data.versions", Right.READ, "GET /datasets/{dataset}/versions")
class ListVersions(Operation[Page[DatasetVersion]], frozen=True, kw_only=True):
    """List the versions of a dataset, newest first."""

    dataset: Id
    limit: Limit = 50
    cursor: Cursor | None = None


@operation("data.version", Right.READ, "GET /datasets/{dataset}/version")
class GetVersion(Operation[DatasetVersion], frozen=True, kw_only=True):
    """Show one version: by its number, by a tag, or `newest`."""

    dataset: Id
    reference: Reference = NEWEST


@operation("data.head", Right.READ, "GET /datasets/{dataset}/rows")
class HeadRows(Operation[Excerpt], frozen=True, kw_only=True):
    """Show some rows of a version."""

    dataset: Id
    reference: Reference = NEWEST
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 20
    offset: Count = 0


@operation("data.tag", Right.WRITE, "POST /datasets/{dataset}/tags")
class TagVersion(Operation[DatasetVersion], frozen=True, kw_only=True):
    """Point a tag at a version; it leaves the one it pointed at before."""

    dataset: Id
    number: Annotated[int, Meta(ge=1, le=2**53)]
    tag: Tag


OPERATIONS = (
    CreateDataset,
    CleanDataset,
    SplitDataset,
    GetDraft,
    CommitVersion,
    FailDraft,
    ListDatasets,
    GetDataset,
    ListVersions,
    GetVersion,
    HeadRows,
    TagVersion,
)
