"""Nouns of lineage. Nothing here is stored: each tree is walked when somebody asks, over what the other rooms keep for ever."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Id, Limit, Name
from skyloom.core.errors import NotFound
from skyloom.core.operation import Operation, Right, operation


class SubjectUnknown(NotFound):
    """Nothing with that id has a lineage in this project."""


class RowMissing(NotFound):
    """No version of the dataset ever held that row."""


class Kind(enum.StrEnum):
    """What a node of a lineage is."""

    PREDICTION = "prediction"
    DEVICE = "device"  # that a prediction was made on
    REVISION = "revision"  # of an endpoint
    MODEL_VERSION = "model_version"
    RUN = "run"
    DATASET_VERSION = "dataset_version"
    ROW = "row"


class LineageNode(msgspec.Struct, frozen=True, kw_only=True):
    """One thing and what it leads to: what it was made from, or, walking forward, what was made with it.

    Attributes:
        name: for people: "digits revision 3".
        at: when it was made; Unix seconds.
        facts: a few words about it, each with its own name.
        next: where the walk goes on; empty where it ends.
    """

    kind: Kind
    id: str
    name: str
    at: float | None = None
    facts: dict[str, str] = {}
    next: tuple["LineageNode", ...] = ()


class RowsUsed(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a dataset version that a run used for one purpose, by stable id, in order; a page of them.

    Attributes:
        where: the condition that selects them in the version.
        num_rows: all of them, not only this page.
        next_after: ask with this for what follows; None at the end.
        is_proven: the digest of all the ids is the one that the run recorded; None when it recorded none.
    """

    dataset: str
    version: int
    split: str
    where: str
    num_rows: int
    row_ids: tuple[int, ...]
    next_after: int | None = None
    is_proven: bool | None = None


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where something comes from, down to the rows. ``rows`` is None when no dataset of this cloud is at the bottom."""

    subject: LineageNode
    rows: RowsUsed | None = None


@operation("lineage.get", Right.READ, "GET /lineage/{subject_id}")
class GetLineage(Operation[Lineage], frozen=True, kw_only=True):
    """Walk from a prediction, an endpoint, a revision, a model version or a run back to the rows it was trained on; or from a dataset
    version to what it was made from, predictions to their model and to the rows that they are about.

    Attributes:
        subject_id: id of one of these, the name of an endpoint, ``model:number``, or ``dataset:name`` and ``dataset:name:number``.
        split: which of the run's splits to list the rows of; empty for the one that the model was fitted on.
        after: the last row id already seen.
    """

    subject_id: Id
    split: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,80}$(?!\n)")] = ""
    after: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1
    limit: Limit = 20


@operation("lineage.row", Right.READ, "GET /datasets/{dataset}/rows/{row_id}/lineage")
class GetRowLineage(Operation[LineageNode], frozen=True, kw_only=True):
    """Walk from one row forward: the versions that hold it, newest first, the runs that used them, their models, the endpoints."""

    dataset: Name
    row_id: Annotated[int, Meta(ge=0, le=2**63 - 1)]


OPERATIONS = (GetLineage, GetRowLineage)
