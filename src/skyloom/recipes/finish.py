"""What every recipe does once the weights stand: bundle, evaluate what will be served, register, leave a result."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray

from skyloom.recipes.package import Meaning, package
from skyloom.recipes.publish import Outcome, leave, publish
from skyloom.rooms.registry.model import Evaluation, Provenance, SplitRows
from skyloom.rooms.training.model import TrainingPlan
from skyloom.runtime.context import context
from skyloom.runtime.fit import Fitted
from skyloom.runtime.report import report
from skyloom.runtime.rows import RowSet

Array = NDArray[Any]


@dataclass(frozen=True)
class Trained:
    """A trained network and the rows it was trained and is to be judged on.

    Attributes:
        held_out: input tensor name → rows to judge it on, in the order of ``forward``'s arguments.
        extra_files: more files for the bundle.
        evaluate: from the first output on the held-out rows to figures.
    """

    model: torch.nn.Module
    meaning: Meaning
    held_out: Mapping[str, Array]
    evaluate: Callable[[Array], Evaluation]
    rows: Mapping[str, RowSet]
    fitted: Fitted
    seed: int
    extra_files: Mapping[str, bytes] = field(default_factory=dict)


def finish(trained: Trained, plan: TrainingPlan) -> Outcome:
    """Do it all, on rank 0. What is evaluated is the exported model, since that is what will be served."""
    here, started = context(), time.monotonic()
    folder = here.task_folder / "bundle"
    bundle = package(trained.model.cpu(), trained.held_out, trained.meaning, folder, trained.extra_files)
    exported = time.monotonic()
    evaluation = trained.evaluate(bundle.predict(trained.held_out)[trained.meaning.outputs[0]])
    report({f"{evaluation.split}/{name}": value for name, value in evaluation.metrics.items()}, trained.fitted.steps)
    print(_sentence(evaluation, trained.fitted), flush=True)
    outcome = Outcome(evaluation=evaluation)
    if plan.model and here.is_in_job:
        version = publish(bundle, plan.model, _provenance(trained, plan), evaluation)
        outcome = Outcome(model=version.model, number=version.number, evaluation=evaluation)
    durations = {
        "training": trained.fitted.duration_s,
        "export": exported - started,
        "evaluation_and_registration": time.monotonic() - exported,
    }
    outcome = Outcome(model=outcome.model, number=outcome.number, evaluation=evaluation, duration_s=durations)
    leave(outcome, here)
    return outcome


def _sentence(evaluation: Evaluation, fitted: Fitted) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.metrics.items())
    return f"Trained {fitted.steps} steps; on {evaluation.num_rows} rows of {evaluation.split}: {figures}."


def _provenance(trained: Trained, plan: TrainingPlan) -> Provenance:
    return Provenance(
        dataset=plan.dataset,
        dataset_version=plan.dataset_version,
        target=plan.target,
        splits={name: SplitRows(num_rows=len(rows), row_ids_digest=rows.digest) for name, rows in trained.rows.items()},
        recipe=plan.recipe,
        code_digest=plan.code_digest,
        parameters=plan.parameters,
        seed=trained.seed,
    )
