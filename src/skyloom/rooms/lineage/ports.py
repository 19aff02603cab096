"""What lineage asks the other rooms. It stores nothing of its own."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from skyloom.core.operation import Caller
from skyloom.ports.store import Snapshot
from skyloom.rooms.data.making import Predict
from skyloom.rooms.devices.model import DevicePrediction
from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.serving.model import Endpoint, PredictionRecord, Revision
from skyloom.rooms.tracking.model import Run


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset version and the version of the table that holds its rows.

    Attributes:
        parent: the version of the same dataset that it was made from.
        predicted: what said its rows, and of which rows: a model version and a dataset version.
    """

    dataset: str
    number: int
    table: str
    table_number: int
    parent: int | None = None
    made_at: float | None = None
    facts: dict[str, str] = {}
    predicted: Predict | None = None


class Sources(Protocol):
    """Reads the facts that a walk needs. Everything of one project; None and empty for what is not there or somebody else's."""

    def prediction(self, prediction_id: str, by: Caller) -> PredictionRecord:
        """Find a prediction in the request logs; not in a snapshot, because it reads a file. Raises `NotFound`, `InvalidInput`."""
        ...

    def on_device(self, prediction_id: str, project: str) -> DevicePrediction | None:
        """A prediction that was made on a device and has come here since. Raises `InvalidInput`."""
        ...

    def served(self, view: Snapshot, subject: str, project: str) -> tuple[Endpoint, Revision] | None:
        """A revision by its id, or the newest one of an endpoint by id or name."""
        ...

    def serving(self, view: Snapshot, version_id: str, project: str) -> Sequence[tuple[Endpoint, Revision]]:
        """All revisions that serve, or served, a model version."""
        ...

    def model_version(self, view: Snapshot, subject: str, project: str) -> ModelVersion | None:
        """A model version by its id, or by ``model:number``."""
        ...

    def registered(self, view: Snapshot, run_id: str, project: str) -> Sequence[ModelVersion]:
        """The model versions that a run registered."""
        ...

    def run(self, view: Snapshot, run_id: str, project: str) -> Run | None:
        """A run by its id."""
        ...

    def mounted(self, view: Snapshot, job_id: str, project: str) -> Sequence[str]:
        """What a job had as folders, each an exact version: ``dataset:digits:3``."""
        ...

    def trained_on(self, view: Snapshot, dataset: str, number: int, project: str) -> Sequence[Run]:
        """The runs on a dataset version."""
        ...

    def held(self, view: Snapshot, dataset: str, project: str) -> Sequence[Held]:
        """All versions of a dataset, oldest first. Empty for an unknown one."""
        ...
