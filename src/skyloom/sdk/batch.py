"""Batch predictions from Python: all rows of a dataset version, in a job, now or by the clock."""

from collections.abc import Mapping, Sequence
from typing import Any

from skyloom.core.resources import Resources
from skyloom.rooms.batch import model, rules
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.data.model import NEWEST as NEWEST_ROWS
from skyloom.rooms.data.model import DatasetVersion, DraftStatus
from skyloom.rooms.registry.model import NEWEST as NEWEST_MODEL
from skyloom.rooms.schedules.model import CreateSchedule, ScheduleStatus
from skyloom.sdk.data import DataCalls
from skyloom.sdk.transport import Transport


class BatchCalls:
    """The part of ``cloud.predictions`` that works on datasets."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def run(
        self,
        dataset: str,
        model_name: str,
        to: str,
        *,
        version: str = NEWEST_ROWS,
        model_version: str = NEWEST_MODEL,
        split: str = "",
        columns: Mapping[str, str] | None = None,
        keep: Sequence[str] = (),
        resources: Resources | None = None,
        key: str | None = None,
    ) -> DraftStatus:
        """Start the job that predicts all rows of a dataset version. Returns at once; see `finish`.

        Args:
            to: name of the dataset that the predictions become a version of.
            version, model_version: numbers, a tag or an alias, ``newest``.
            split: only the rows of this part.
            columns: what the model takes → column of the dataset, where their names differ.
            keep: columns of the dataset that stay beside the predictions.
            resources: of the job; None takes the idle cores of the machine.
            key: the same key again is the same prediction, and no second one.

        Raises `NotPredictable`, naming the column that does not fit.
        """
        order = _order(dataset, model_name, to, version, model_version, split, columns, keep)
        return self._transport.send(model.RunPredictions(order=order, resources=resources), key)

    def finish(self, draft: DraftStatus | str, *, timeout_s: float | None = None) -> DatasetVersion:
        """Wait for predictions and return their version. Raises why they failed, ``TimeoutError``."""
        return DataCalls(self._transport).finish(draft, timeout_s=timeout_s)

    def schedule(
        self,
        name: str,
        cron: str,
        dataset: str,
        model_name: str,
        to: str,
        *,
        version: str = NEWEST_ROWS,
        model_version: str = NEWEST_MODEL,
        split: str = "",
        columns: Mapping[str, str] | None = None,
        keep: Sequence[str] = (),
        resources: Resources | None = None,
        **options: Any,
    ) -> ScheduleStatus:
        """Predict at each slot of a cron line, with the versions that the references mean then.

        Args:
            resources: of each job; None takes one core.
            options: fields of `CreateSchedule`: ``time_zone``, ``missed``, ``overlap``.
        """
        order = _order(dataset, model_name, to, version, model_version, split, columns, keep)
        spec = rules.job(order, resources or Resources(cpus=1, memory_bytes=2 * 2**30))
        return self._transport.send(CreateSchedule(name=name, cron=cron, spec=spec, **options))

    def begin(self, order: BatchOrder) -> DraftStatus:
        """Begin the predictions that this task makes itself. For the program of a batch job; safe to repeat."""
        return self._transport.send(model.BeginPredictions(order=order))


def _order(
    dataset: str,
    model_name: str,
    to: str,
    version: str,
    model_version: str,
    split: str,
    columns: Mapping[str, str] | None,
    keep: Sequence[str],
) -> BatchOrder:
    return BatchOrder(
        dataset=dataset,
        model=model_name,
        to=to,
        version=version,
        model_version=model_version,
        split=split,
        columns=dict(columns or {}),
        keep=tuple(keep),
    )
