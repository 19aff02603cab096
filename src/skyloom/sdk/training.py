"""Trainings, runs and models from Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skyloom.core.operation import Done, Page
from skyloom.core.resources import Resources, parse_bytes
from skyloom.ports.series import Point
from skyloom.rooms.registry import model as registry
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.tracking import model as tracking
from skyloom.rooms.tracking.model import RunProgress
from skyloom.rooms.training.model import Train
from skyloom.sdk.environment import spec_fields
from skyloom.sdk.files import upload_all
from skyloom.sdk.transport import Transport


class TrainingCalls:
    """``cloud.trainings``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def start(
        self,
        recipe: str = "",
        *,
        dataset: str | None = None,
        target: str | None = None,
        script: str | Path | None = None,
        args: Sequence[str] = (),
        include: Mapping[str, str | Path] | None = None,
        parameters: Mapping[str, Any] | None = None,
        workers: int | tuple[int, int] = 1,
        cpus: float = 1.0,
        gpus: int = 0,
        memory: str = "2GiB",
        **options: Any,
    ) -> RunProgress:
        """Train with a recipe (``image``, ``tabular``) or a script of yours. Wait for it with ``cloud.jobs.finish(run.job_id)``.

        Args:
            script: a Python file here; it is uploaded and run as every worker, with ``args``.
            include: more files to upload, as path in the job → path here.
            parameters: of the recipe or script.
            workers: size of the gang; ``(1, 8)`` for an elastic one.
            options: more fields of `Train`: ``version``, ``model``, ``max_retries``, ``max_duration_s``, ``labels``, …; and
                ``requirements``: a file here or a list of packages, for an environment of the training's own.
        """
        local = {**(include or {}), **({Path(script).name: script} if script else {})}
        ask = Train(
            recipe=recipe,
            dataset=dataset,
            target=target,
            script=Path(script).name if script else None,
            args=tuple(args),
            files=upload_all(self._transport, local),
            parameters=dict(parameters or {}),
            resources=Resources(cpus=cpus, gpus=gpus, memory_bytes=parse_bytes(memory)),
            **spec_fields({"num_workers": workers, **options}),
        )
        return self._transport.send(ask)


class RunCalls:
    """``cloud.runs``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, run_id: str) -> RunProgress:
        """A run, its state and its newest measurements."""
        return self._transport.send(tracking.GetRun(run_id=run_id))

    def list(self, dataset: str | None = None, limit: int = 50, cursor: str | None = None) -> Page[RunProgress]:
        """Runs, newest first."""
        return self._transport.send(tracking.ListRuns(dataset=dataset, limit=limit, cursor=cursor))

    def series(
        self, run_id: str, name: str | None = None, after_step: int = -1, limit: int = 10_000
    ) -> tracking.SeriesSlice:
        """Measurements of a run, in the order they came."""
        ask = tracking.GetSeries(run_id=run_id, name=name, after_step=after_step, limit=limit)
        return self._transport.send(ask)

    def log(self, run_id: str, source: str, sequence: int, points: Sequence[Point]) -> Done:
        """Add measurements to a run. Inside of a job, `skyloom.runtime.report` does that for you."""
        ask = tracking.LogMeasurements(run_id=run_id, source=source, sequence=sequence, points=tuple(points))
        return self._transport.send(ask)


class ModelCalls:
    """``cloud.models``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(
        self,
        model: str,
        manifest: Manifest,
        provenance: registry.Provenance | None = None,
        evaluation: registry.Evaluation | None = None,
        parity: registry.Parity | None = None,
        description: str = "",
    ) -> registry.ModelVersion:
        """Register a bundle whose files are uploaded. `skyloom.recipes.publish` does both from a training."""
        ask = registry.RegisterModelVersion(
            model=model,
            manifest=manifest,
            provenance=provenance or registry.Provenance(),
            evaluation=evaluation,
            parity=parity,
            description=description,
        )
        return self._transport.send(ask)

    def alias(self, model: str, alias: str, number: int) -> registry.Model:
        """Point an alias at a version."""
        return self._transport.send(registry.SetAlias(model=model, alias=alias, number=number))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[registry.Model]:
        """Models, newest first."""
        return self._transport.send(registry.ListModels(limit=limit, cursor=cursor))

    def get(self, model: str) -> registry.ModelStatus:
        """A model and its versions."""
        return self._transport.send(registry.GetModel(model=model))

    def version(self, model: str, reference: str = registry.NEWEST) -> registry.ModelVersion:
        """One version, by number, alias or ``newest``."""
        return self._transport.send(registry.GetModelVersion(model=model, reference=reference))
