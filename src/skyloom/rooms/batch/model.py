"""Nouns of batch prediction: what is to be predicted, by references that mean something at the moment they are used."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Id, Name
from skyloom.core.errors import Denied, InvalidInput
from skyloom.core.operation import Operation, Right, operation
from skyloom.core.resources import Resources
from skyloom.rooms.data.making import ColumnName, PartName
from skyloom.rooms.data.model import DraftStatus, Reference
from skyloom.rooms.registry.model import NEWEST


class NotPredictable(InvalidInput):
    """The rows and the model do not fit together. The message names the column."""


class NotABatchTask(Denied):
    """Only a task may begin predictions of its own; people ask for a job of it."""


class BatchOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is to be predicted.

    Attributes:
        dataset, version: the rows; the version is a number, a tag or ``newest``.
        model, model_version: who says it; the version is a number, an alias or ``newest``.
        to: name of the dataset that the predictions become a version of; it may have versions already.
        split: only the rows of this part; empty for all.
        columns: what the model takes → column of the dataset, where their names differ.
        keep: columns of the dataset that stay beside the predictions, a target for example.
    """

    dataset: Id
    model: Name
    to: Name
    version: Reference = NEWEST
    model_version: Id = NEWEST
    split: PartName = ""
    columns: Annotated[dict[ColumnName, ColumnName], Meta(max_length=200)] = {}
    keep: Annotated[tuple[ColumnName, ...], Meta(max_length=200)] = ()


@operation("predictions.run", Right.RUN, "POST /predictions")
class RunPredictions(Operation[DraftStatus], frozen=True, kw_only=True):
    """Predict all rows of a dataset version in a job. The answer is the draft of the version that the predictions become.

    The versions are those that their references mean now.

    Attributes:
        resources: of the job; None takes the cores of this machine that are idle now, and memory by the size of the model.
    """

    order: BatchOrder
    resources: Resources | None = None


@operation("predictions.begin", Right.WRITE, "POST /predictions/begin")
class BeginPredictions(Operation[DraftStatus], frozen=True, kw_only=True):
    """Begin the predictions that a task itself makes, with the versions that the references mean now. Once for each job; safe to repeat."""

    order: BatchOrder


OPERATIONS = (RunPredictions, BeginPredictions)
