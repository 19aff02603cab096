"""Rows for a model and what its answers mean: tensors and rows by their names, labels instead of scores. Speaks to nobody."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.rooms.registry.bundle import Manifest, ModelKind


class PredictionRefused(InvalidInput):
    """The model server refuses the request; the message is its own."""


class RowPrediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model says of one row.

    Attributes:
        label, score: of a classifier: the class with the highest score (its place, where the model has no names for them); None where
            a score is no number, as for a row with missing values that the model cannot do without.
        prediction: of a regression.
    """

    label: str | int | None = None
    score: float | None = None
    prediction: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint answered.

    Attributes:
        model_version: number of the version that answered; empty where the control plane does not know that replica any more.
        outputs: tensor name → rows, nested as the tensor's shape; NaN and infinities are None.
        predictions: what that means, row by row; empty for models that are neither classifier nor regression, and where the control plane
            could not be asked what the outputs mean.
    """

    prediction_id: str
    model: str
    model_version: str
    outputs: dict[str, list[Any]]
    predictions: tuple[RowPrediction, ...] = ()


def rows_by_name(described: Sequence[Mapping[str, Any]], inputs: Any) -> list[Mapping[str, Any]] | None:
    """Rows that are objects: a list of them, or one. None: the inputs are tensors, or rows without names."""
    if isinstance(inputs, Mapping):
        tensors = {item["name"] for item in described}
        is_row = bool(inputs) and not all(name in tensors and _is_rows(value) for name, value in inputs.items())
        return [inputs] if is_row else None
    is_list = isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes)
    return list(inputs) if is_list and any(isinstance(row, Mapping) for row in inputs) else None


def tensors_of(described: Sequence[Mapping[str, Any]], inputs: Any) -> list[dict[str, Any]]:
    """Inputs in the words of the Open Inference Protocol. Raises `PredictionRefused`."""
    if not isinstance(inputs, Mapping):
        if len(described) != 1:
            names = ", ".join(item["name"] for item in described)
            raise PredictionRefused(f"The model has several inputs: {names}.", next_action="Give a mapping by name.")
        inputs = {described[0]["name"]: inputs}
    datatypes = {item["name"]: item["datatype"] for item in described}
    return [_tensor(name, datatypes.get(name, "FP32"), rows) for name, rows in inputs.items()]


def nested(flat: list[Any], shape: Sequence[int]) -> list[Any]:
    """The rows of a tensor out of all its elements."""
    for width in reversed(shape[1:]):
        flat = [flat[start : start + width] for start in range(0, len(flat), width)] if width else []
    return flat


def meanings(manifest: Manifest, outputs: Mapping[str, Sequence[Any]]) -> tuple[RowPrediction, ...]:
    """What a version's first output says of each row, as its server's ``/predict`` would put it."""
    first = manifest.signature.outputs[0].name if manifest.signature.outputs else ""
    rows = [_flat(row) for row in outputs.get(first, ())]
    if manifest.kind is ModelKind.OTHER or not all(rows) or any(isinstance(row[0], str) for row in rows):
        return ()
    if manifest.kind is ModelKind.REGRESSION:
        return tuple(RowPrediction(prediction=row[0]) for row in rows)
    return tuple(_best(row, manifest.labels) for row in rows)


def meanings_of(rows: Sequence[Mapping[str, Any]]) -> tuple[RowPrediction, ...]:
    """The same out of the rows that a server's ``/predict`` has answered."""
    if not all({"label", "prediction"} & row.keys() for row in rows):
        return ()
    whole = (RowPrediction() if "label" in row and row["score"] is None else row for row in rows)
    return msgspec.convert(tuple(whole), tuple[RowPrediction, ...], from_attributes=True)


def _best(scores: Sequence[float | None], labels: Sequence[str]) -> RowPrediction:
    sure = [score for score in scores if score is not None]
    if len(sure) < len(scores):
        return RowPrediction()
    place = scores.index(max(sure))
    return RowPrediction(label=labels[place] if place < len(labels) else place, score=scores[place])


def _flat(row: Any) -> list[Any]:
    return [one for part in row for one in _flat(part)] if isinstance(row, list | tuple) else [row]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) or hasattr(value, "tolist")


def _tensor(name: str, datatype: str, rows: Any) -> dict[str, Any]:
    plain = rows.tolist() if hasattr(rows, "tolist") else rows
    shape: list[int] = []
    level = plain
    while isinstance(level, list | tuple):
        shape.append(len(level))
        level = level[0] if level else None
    return {"name": name, "datatype": datatype, "shape": shape, "data": plain}
