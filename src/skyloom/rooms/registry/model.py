"""Nouns and operations of the registry. The registry knows digests and facts; it never loads weights."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Cursor, Digest, Id, Limit, Name, ShortText, Text
from skyloom.core.errors import Conflict, InvalidInput, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.ports.store import Record
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.tracking.model import Parameters

NEWEST = "newest"


class ModelMissing(NotFound):
    """No such model in this project."""


class ModelVersionMissing(NotFound):
    """The model has no such version or alias."""


class BundleIncomplete(InvalidInput):
    """A file that the bundle's manifest names was never uploaded, or its size is another."""


class BundleInvalid(InvalidInput):
    """The manifest does not describe a model that can be served."""


class AliasReserved(InvalidInput):
    """The alias would hide a version's number, or ``newest``."""


class AlreadyRegistered(Conflict):
    """The run has registered another version of this model before."""


Key = Annotated[str, Meta(min_length=1, max_length=200)]


class ClassScore(msgspec.Struct, frozen=True, kw_only=True):
    """How well one class is found. ``num_rows`` are rows that truly belong to it."""

    label: ShortText
    precision: float
    recall: float
    num_rows: Count


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What a model does on rows that it was not trained on.

    Attributes:
        metrics: "accuracy" and "macro_f1", or "rmse", "mae" and "r2"; whatever a user script measured.
        confusion: ``confusion[i][j]`` rows of class i were taken for class j; empty beyond 100 classes.
    """

    split: ShortText
    num_rows: Count
    metrics: Annotated[dict[Key, float], Meta(max_length=200)]
    classes: Annotated[tuple[ClassScore, ...], Meta(max_length=10_000)] = ()
    confusion: Annotated[tuple[Annotated[tuple[Count, ...], Meta(max_length=100)], ...], Meta(max_length=100)] = ()


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How far the exported model is from the trained one, on real rows.

    Attributes:
        largest_difference: of any output element, relative to its size where that is above 1.
    """

    batch_sizes: Annotated[tuple[Count, ...], Meta(max_length=20)]
    largest_difference: float
    tolerance: float


class SplitRows(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows of the dataset version were used. ``row_ids_digest`` is over the sorted stable row ids, 8 bytes each, little-endian."""

    num_rows: Count
    row_ids_digest: Digest


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model version comes from."""

    run_id: ShortText = ""
    job_id: ShortText = ""
    attempt: Count = 1
    dataset: ShortText = ""
    dataset_version: Count = 0
    target: ShortText = ""
    splits: Annotated[dict[Key, SplitRows], Meta(max_length=20)] = {}
    recipe: ShortText = ""
    code_digest: ShortText = ""
    parameters: Parameters = {}
    seed: Count = 0
    num_workers: Count = 1
    libraries: Annotated[dict[Key, ShortText], Meta(max_length=200)] = {}


class Model(Record, frozen=True, kw_only=True):
    """A name that versions are registered under.

    Attributes:
        newest: number of the newest version.
        aliases: "champion" → version number.
    """

    name: str
    created_at: float
    newest: int = 0
    aliases: dict[str, int] = msgspec.field(default_factory=dict)


class ModelVersion(Record, frozen=True, kw_only=True):
    """One deployable model. Never changes.

    Attributes:
        number: counts from 1 within the model.
        manifest: the bundle's files by digest, its signature and labels.
    """

    model: str
    number: int
    run_id: str = ""
    manifest: Manifest
    provenance: Provenance
    evaluation: Evaluation | None = None
    parity: Parity | None = None
    created_at: float
    description: str = ""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A model and its versions, newest first (at most the newest hundred)."""

    model: Model
    versions: tuple[ModelVersion, ...] = ()


@operation("models.register", Right.WRITE, "POST /models/{model}/versions")
class RegisterModelVersion(Operation[ModelVersion], frozen=True, kw_only=True):
    """Register a bundle whose files are uploaded. The model is made when missing. A run that registers the same again gets the same
    version. The provenance names the job and run of the task that asks, and none when people do, whatever the request says."""

    model: Name
    manifest: Manifest
    provenance: Provenance = Provenance()
    evaluation: Evaluation | None = None
    parity: Parity | None = None
    description: Text = ""


@operation("models.alias", Right.WRITE, "PUT /models/{model}/aliases/{alias}")
class SetAlias(Operation[Model], frozen=True, kw_only=True):
    """Point an alias at a version; moves it when it exists."""

    model: Name
    alias: Name
    number: Annotated[int, Meta(ge=1, le=2**53)]


@operation("models.list", Right.READ, "GET /models")
class ListModels(Operation[Page[Model]], frozen=True, kw_only=True):
    """List models, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


@operation("models.get", Right.READ, "GET /models/{model}")
class GetModel(Operation[ModelStatus], frozen=True, kw_only=True):
    """Show a model and its versions."""

    model: Name


@operation("models.version", Right.READ, "GET /models/{model}/versions/{reference}")
class GetModelVersion(Operation[ModelVersion], frozen=True, kw_only=True):
    """Show one version: by its number, by an alias, or ``newest``."""

    model: Name
    reference: Id = NEWEST


OPERATIONS = (RegisterModelVersion, SetAlias, ListModels, GetModel, GetModelVersion)
