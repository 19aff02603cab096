"""Pure walking: records of other rooms in, nodes and trees out."""

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from skyloom.core import digests
from skyloom.rooms.data.making import SPLIT_COLUMN, TRAINING_PART
from skyloom.rooms.devices.model import DevicePrediction
from skyloom.rooms.lineage.model import Kind, LineageNode, RowsUsed
from skyloom.rooms.lineage.ports import Held
from skyloom.rooms.registry.model import ModelVersion, SplitRows
from skyloom.rooms.serving.model import Endpoint, Revision
from skyloom.rooms.serving.predictions import Prediction
from skyloom.rooms.tracking.model import Run

_SHOWN_METRICS = 4


def chain(nodes: Sequence[LineageNode]) -> LineageNode:
    """Make a path of nodes: each leads to the one after it."""
    path = nodes[-1]
    for node in reversed(nodes[:-1]):
        path = leading_to(node, [path])
    return path


def leading_to(node: LineageNode, following: Iterable[LineageNode]) -> LineageNode:
    """A node with where it leads."""
    return msgspec.structs.replace(node, next=tuple(following))


def with_facts(node: LineageNode, facts: Mapping[str, str]) -> LineageNode:
    """A node with more to say."""
    return msgspec.structs.replace(node, facts={**node.facts, **facts})


def of_prediction(prediction: Prediction) -> LineageNode:
    facts = {"rows": str(prediction.rows), "status": str(prediction.status)}
    name = f"prediction {prediction.prediction_id}"
    return LineageNode(kind=Kind.PREDICTION, id=prediction.prediction_id, name=name, at=prediction.at, facts=facts)


def of_device_prediction(found: DevicePrediction) -> tuple[LineageNode, LineageNode]:
    """A prediction that was made on a device, and the device."""
    facts = {"rows": str(found.predicted.rows), "status": str(found.predicted.status)}
    name = f"prediction {found.prediction_id}"
    prediction = LineageNode(kind=Kind.PREDICTION, id=found.prediction_id, name=name, at=found.at, facts=facts)
    device = found.device
    labels = dict(sorted(device.labels.items()))
    name = f"device {device.name}"
    return prediction, LineageNode(kind=Kind.DEVICE, id=device.id, name=name, at=device.joined_at, facts=labels)


def of_revision(endpoint: Endpoint, revision: Revision) -> LineageNode:
    now = "stopped" if endpoint.stopped_by else "serving" if revision.number == endpoint.revision else "replaced"
    return LineageNode(
        kind=Kind.REVISION,
        id=revision.id,
        name=f"{endpoint.name} revision {revision.number}",
        at=revision.created_at,
        facts={"endpoint": endpoint.id, "now": now},
    )


def of_model_version(version: ModelVersion) -> LineageNode:
    measured = list(version.evaluation.metrics.items())[:_SHOWN_METRICS] if version.evaluation else []
    facts = {name: f"{value:.4g}" for name, value in measured}
    if version.evaluation:
        facts["evaluated on"] = f"{version.evaluation.num_rows} rows of {version.evaluation.split}"
    return LineageNode(
        kind=Kind.MODEL_VERSION,
        id=version.id,
        name=f"{version.model} version {version.number}",
        at=version.created_at,
        facts=facts,
    )


def of_run(run: Run, version: ModelVersion | None = None) -> LineageNode:
    """A run; what only the model's provenance knows of it is told when the model is given."""
    facts = {"job": run.job_id, "recipe": run.recipe, "target": run.target, "code": run.code_digest}
    if version is not None:
        made = version.provenance
        facts |= {"attempt": str(made.attempt), "workers": str(made.num_workers), "seed": str(made.seed)}
    told = {name: text for name, text in facts.items() if text}
    return LineageNode(kind=Kind.RUN, id=run.id, name=f"run {run.name or run.id}", at=run.created_at, facts=told)


def of_held(held: Held, split: str | None = None) -> LineageNode:
    """A dataset version; with the split that the row asked about lies in."""
    return LineageNode(
        kind=Kind.DATASET_VERSION,
        id=f"{held.dataset}:{held.number}",
        name=f"{held.dataset} version {held.number}",
        at=held.made_at,
        facts={**held.facts, **({"split": split} if split else {})},
    )


def line_of(versions: Iterable[Held], number: int) -> list[Held]:
    """A dataset version and those it was made from, down to the one that was made from files. Empty when it is not there."""
    by_number = {held.number: held for held in versions}
    line: list[Held] = []
    place: int | None = number
    while place is not None and (held := by_number.pop(place, None)):
        line.append(held)
        place = held.parent
    return line


def of_row(dataset: str, row_id: int) -> LineageNode:
    return LineageNode(kind=Kind.ROW, id=str(row_id), name=f"row {row_id} of {dataset}")


def use_of(version: ModelVersion, split: str | None) -> str | None:
    """How a model's run used a row that lies in ``split``: "trained on it", or None when it never read it.

    A run that recorded no splits (a user's own script) may have read any row of its dataset version.
    """
    splits = version.provenance.splits
    if not splits:
        return "may have trained on it"
    if split not in splits:
        return None
    return "trained on it" if split == fitted_split(version) else f"judged on it ({split})"


def fitted_split(version: ModelVersion | None) -> str:
    """The split that a model was fitted on: of those that its run recorded, the one that it was not judged on."""
    splits = list(version.provenance.splits) if version else []
    judged = version.evaluation.split if version and version.evaluation else ""
    others = [split for split in splits if split != judged] or splits
    return TRAINING_PART if TRAINING_PART in others or not others else others[0]


def rows_used(
    dataset: str,
    version: int,
    split: str,
    row_ids: Iterable[int],
    recorded: SplitRows | None,
    *,
    after: int,
    limit: int,
) -> RowsUsed:
    """Make a page of row ids, and compare all of them with what the run recorded."""
    ordered = sorted(row_ids)
    page = [row_id for row_id in ordered if row_id > after][: limit + 1]
    return RowsUsed(
        dataset=dataset,
        version=version,
        split=split,
        where=condition(split),
        num_rows=len(ordered),
        row_ids=tuple(page[:limit]),
        next_after=page[limit - 1] if len(page) > limit else None,
        is_proven=recorded.row_ids_digest == row_ids_digest(ordered) if recorded else None,
    )


def condition(split: str) -> str:
    """The condition that selects a split. Its name is bounded to letters, digits, dots, dashes by the operation."""
    return f"{SPLIT_COLUMN} = '{split}'"


def row_ids_digest(ordered: Sequence[int]) -> str:
    """Digest of sorted row ids, 8 bytes each, little-endian: what `registry.model.SplitRows` keeps."""
    packed = array("q", ordered)
    if sys.byteorder == "big":
        packed.byteswap()
    return digests.of_bytes(packed.tobytes())
