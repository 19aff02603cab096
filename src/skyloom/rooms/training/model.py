"""Nouns and operations of training."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Digest, Name, RelativePath, ShortText
from skyloom.core.errors import InvalidInput
from skyloom.core.operation import Operation, Right, operation
from skyloom.core.resources import Resources
from skyloom.ports.environment import PythonEnvironment
from skyloom.rooms.cost.budget import Allowance, Amount
from skyloom.rooms.data.making import TRAINING_PART, ColumnName
from skyloom.rooms.data.model import NEWEST, Reference
from skyloom.rooms.jobs.model import (
    MaxWorkers,
    Moment,
    MountName,
    MountReference,
    PoolNames,
    Requirements,
    Span,
    Speedups,
    Workers,
)
from skyloom.rooms.tracking.model import Labels, Parameters, RunProgress


class TrainingUnclear(InvalidInput):
    """The request does not say what to train, or on what."""


class TargetMissing(InvalidInput):
    """The dataset version has no such column."""


class NotSplit(InvalidInput):
    """The rows of the dataset version are not divided into those to train on and those to judge by."""


class TableSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a dataset version lies: a table and its version there. Where the tables are, a task is told by its machine."""

    table: str
    number: int


class TrialOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a training to try, so that its time can be predicted.

    Attributes:
        share: of all steps, but no fewer than ``min_steps`` and no more than ``max_steps``.
        total_steps: of the whole training, where the program does not say so itself (one that only reports).
    """

    share: Annotated[float, Meta(gt=0, le=1)] = 0.05
    min_steps: Annotated[int, Meta(ge=2, le=5_000)] = 20
    max_steps: Annotated[int, Meta(ge=2, le=5_000)] = 500
    total_steps: Annotated[int, Meta(ge=0, le=2**53)] = 0


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a training process is told: all that a recipe or a script needs to know.

    Attributes:
        data: where the rows lie; None when a script brings its own.
        dataset, dataset_version: how people call them.
        target: column to predict.
        model: name to register the result under; empty registers nothing.
        train_on, evaluate_on: splits.
        identifiers: columns that only name rows; nothing is learned from them.
        parameters: of the recipe or script; each recipe declares its own.
    """

    data: TableSource | None = None
    target: str = ""
    dataset: str = ""
    dataset_version: int = 0
    model: str = ""
    recipe: str = ""
    train_on: str = TRAINING_PART
    evaluate_on: str = "test"
    identifiers: tuple[str, ...] = ()
    parameters: Parameters = msgspec.field(default_factory=dict)
    code_digest: str = ""


class FoundVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What training needs to know about a dataset version.

    Attributes:
        table: its place in the tables; versions of the dataset are versions of the table.
        columns: names of its columns.
        identifiers: those that only name rows.
    """

    dataset: str
    number: int
    table: str
    columns: tuple[str, ...]
    identifiers: tuple[str, ...] = ()


@operation("trainings.start", Right.RUN, "POST /trainings")
class Train(Operation[RunProgress], frozen=True, kw_only=True):
    """Train a model: makes a run and queues its job, both or none.

    Attributes:
        recipe: ``image`` or ``tabular``; empty when ``script`` is given.
        script: a Python file among ``files``, run as every worker of the gang with ``args``.
        files: path below the working folder → digest of uploaded bytes.
        dataset, version: what to train on; a number or a tag. A script may do without.
        parameters: of the recipe or script.
        model: name to register the result under; by default the dataset's name; ``-`` registers nothing.
        num_workers, max_workers, pools, requires, priority, preemptible, deadline_at, deadline_s, expected_duration_s,
        speedups: see `JobSpec`.
        budget_usd: what all attempts together may cost; before that it writes a checkpoint and stops.
        max_retries: how often the gang starts again after a failure; it resumes from its newest checkpoint.
        python: packages that the training needs beside those of the pool.
        mounts: more that it reads, as folders; see `JobSpec`.
        trial: try the first steps only; registers nothing and is not tried again.
    """

    recipe: Annotated[str, Meta(max_length=80)] = ""
    script: RelativePath | None = None
    args: Annotated[tuple[ShortText, ...], Meta(max_length=200)] = ()
    files: Annotated[dict[RelativePath, Digest], Meta(max_length=1_000)] = msgspec.field(default_factory=dict)
    dataset: Name | None = None
    version: Reference = NEWEST
    target: ColumnName | None = None
    train_on: ColumnName = TRAINING_PART
    evaluate_on: ColumnName = "test"
    parameters: Parameters = msgspec.field(default_factory=dict)
    model: Annotated[str, Meta(max_length=80, pattern=r"^([a-z0-9]([a-z0-9._-]*[a-z0-9])?|-)$(?!\n)")] | None = None
    name: ShortText = ""
    num_workers: Workers = 1
    max_workers: MaxWorkers = 0
    pools: PoolNames = ()
    requires: Requirements = msgspec.field(default_factory=dict)
    resources: Resources = Resources(memory_bytes=2 * 2**30)
    max_retries: Annotated[int, Meta(ge=0, le=1_000)] = 2
    max_duration_s: Annotated[float, Meta(gt=0, le=366 * 86_400)] | None = None
    budget_usd: Amount | None = None
    priority: Annotated[int, Meta(ge=-1_000, le=1_000)] = 0
    preemptible: bool = True
    deadline_at: Moment | None = None
    deadline_s: Span | None = None
    expected_duration_s: Span | None = None
    speedups: Speedups = ()
    trial: TrialOrder | None = None
    labels: Labels = msgspec.field(default_factory=dict)
    python: PythonEnvironment | None = None
    mounts: Annotated[dict[MountName, MountReference], Meta(max_length=50)] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = Allowance(usd=self.budget_usd)  # NaN becomes null on a wire, and would mean no limit there


OPERATIONS = (Train,)
