"""Pure decisions of training: what a request means, and the job and plan that follow from it."""

import msgspec

from skyloom.core import digests
from skyloom.ports.engine import Entry, PythonFile, PythonModule
from skyloom.rooms.data.making import SPLIT_COLUMN
from skyloom.rooms.jobs.model import JobSpec
from skyloom.rooms.jobs.rules import check_labels
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.tracking.model import Run
from skyloom.rooms.training.model import (
    FoundVersion,
    NotSplit,
    TableSource,
    TargetMissing,
    Train,
    TrainingPlan,
    TrainingUnclear,
)

RECIPES = {"image": "skyloom.recipes.image", "tabular": "skyloom.recipes.tabular"}
PLAN_VARIABLE = "SKYLOOM_TRAINING"
TRIAL_VARIABLE = "SKYLOOM_TRIAL"
NO_MODEL = "-"
_MAX_PLAN_BYTES = 30_000


def check(ask: Train) -> None:
    """Raise `TrainingUnclear` unless the request says what to train and on what; `LabelReserved` for a label that is ours."""
    check_labels(ask.labels)
    if bool(ask.recipe) == bool(ask.script):
        raise TrainingUnclear(
            "A training needs a recipe or a script, and not both.",
            next_action=f"Recipes: {', '.join(sorted(RECIPES))}. Or give a Python file.",
        )
    if ask.recipe and ask.recipe not in RECIPES:
        raise TrainingUnclear(
            f"There is no recipe {ask.recipe!r}.", next_action=f"There are: {', '.join(sorted(RECIPES))}."
        )
    if ask.recipe and not (ask.dataset and ask.target):
        missing = "target" if ask.dataset else "dataset"
        raise TrainingUnclear(f"The recipe {ask.recipe} needs a {missing}.", next_action=f"Name it with --{missing}.")
    if ask.script and ask.script not in ask.files:
        raise TrainingUnclear(
            f"The script {ask.script!r} is not among the files.", next_action="Add it to `files` under that very path."
        )


def check_version(ask: Train, found: FoundVersion) -> None:
    """Raise `TargetMissing` unless the dataset version has the target, and `NotSplit` when a recipe would find no parts in it."""
    if ask.target and ask.target not in found.columns:
        raise TargetMissing(
            f"Version {found.number} of {found.dataset} has no column {ask.target!r}.",
            next_action=f"Its columns are: {', '.join(found.columns[:50])}.",
        )
    if ask.recipe and SPLIT_COLUMN not in found.columns:
        raise NotSplit(
            f"Version {found.number} of {found.dataset} has no splits to train on and to judge by.",
            next_action=f"Split it first: skyloom data split {found.dataset}.",
        )


def code_digest(ask: Train, code_version: str) -> str:
    """What names the code: a script's files, or a recipe and Skyloom's version."""
    return digests.of_value([ask.recipe, code_version] if ask.recipe else [ask.script, ask.args, ask.files])


def plan(ask: Train, found: FoundVersion | None, code: str) -> TrainingPlan:
    """What the process is told. Raises `TrainingUnclear` when the parameters are too long."""
    name = ask.model if ask.model is not None else (ask.dataset or "")
    made = TrainingPlan(
        data=TableSource(table=found.table, number=found.number) if found else None,
        target=ask.target or "",
        dataset=found.dataset if found else "",
        dataset_version=found.number if found else 0,
        model="" if name == NO_MODEL or ask.trial else name,
        recipe=ask.recipe,
        train_on=ask.train_on,
        evaluate_on=ask.evaluate_on,
        identifiers=found.identifiers if found else (),
        parameters=ask.parameters,
        code_digest=code,
    )
    if len(msgspec.json.encode(made)) > _MAX_PLAN_BYTES:
        raise TrainingUnclear(
            "The parameters are too long.", next_action="Put long values into a file of the training."
        )
    return made


def job(ask: Train, made: TrainingPlan, run_id: str) -> JobSpec:
    """The job that does a run."""
    entry: Entry = (
        PythonModule(module=RECIPES[ask.recipe]) if ask.recipe else PythonFile(path=ask.script or "", args=ask.args)
    )
    owners = {"run": run_id, **({"model": made.model} if made.model else {})}
    return JobSpec(
        entry=entry,
        name=ask.name or f"train {made.model or made.dataset or ask.script}",
        files=ask.files,
        environment={PLAN_VARIABLE: msgspec.json.encode(made).decode(), **_trial(ask)},
        num_workers=ask.num_workers,
        max_workers=ask.max_workers,
        pools=ask.pools or ((LOCAL,) if ask.dataset else ()),  # where the tables are, unless its owner knows better
        requires=ask.requires,
        resources=ask.resources,
        max_retries=0 if ask.trial else ask.max_retries,
        max_duration_s=ask.max_duration_s,
        budget_usd=ask.budget_usd,
        priority=ask.priority,
        preemptible=ask.preemptible,
        deadline_at=ask.deadline_at,
        deadline_s=ask.deadline_s,
        expected_duration_s=ask.expected_duration_s,
        speedups=ask.speedups,
        labels={**ask.labels, **owners},
        python=ask.python,
        mounts=ask.mounts,
    )


def _trial(ask: Train) -> dict[str, str]:
    return {TRIAL_VARIABLE: msgspec.json.encode(ask.trial).decode()} if ask.trial else {}


def run(ask: Train, made: TrainingPlan, run_id: str, job_id: str, project: str, now: float) -> Run:
    """The record of a training."""
    return Run(
        id=run_id,
        project=project,
        name=ask.name or f"{made.recipe or ask.script} on {made.dataset or 'its own data'}",
        job_id=job_id,
        recipe=made.recipe,
        dataset=made.dataset,
        dataset_version=made.dataset_version,
        target=made.target,
        parameters=ask.parameters,
        code_digest=made.code_digest,
        created_at=now,
        labels=ask.labels,
    )
