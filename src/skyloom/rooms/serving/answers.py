"""What endpoints answered, for whoever says what was true: an answer's logged outputs, read as its model means them."""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from skyloom.core.operation import Caller
from skyloom.ports.store import Snapshot, Store
from skyloom.rooms.quality.model import AnsweredRow, AnsweredRows
from skyloom.rooms.registry.bundle import Manifest, ModelKind
from skyloom.rooms.registry.ports import VERSIONS
from skyloom.rooms.serving.model import Endpoint, FindPrediction, PredictionRecord

_MAX_MANIFESTS = 50
_ENOUGH = 1e-3  # by which scores that are chances may lie beside 0 and 1


class LoggedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One output in the request log."""

    name: str
    shape: tuple[int, ...]
    data: list[Any]


class RequestAnswers:
    """`rooms.quality.ports.Answers` over the request logs."""

    def __init__(
        self,
        store: Store,
        find: Callable[[Snapshot, str, str], Endpoint],
        find_prediction: Callable[[FindPrediction, Caller], PredictionRecord],
    ) -> None:
        self._store = store
        self._find = find
        self._find_prediction = find_prediction
        self._manifests: dict[str, Manifest | None] = {}

    def endpoint(self, name: str, project: str) -> tuple[str, str]:
        found = self._store.read(lambda view: self._find(view, name, project))
        return found.id, found.name

    def answer(self, prediction_id: str, by: Caller) -> AnsweredRows:
        found = self._find_prediction(FindPrediction(prediction_id=prediction_id), by)
        return answered(found, self._manifest(found.revision.model_version))

    def _manifest(self, version_id: str) -> Manifest | None:
        """A version never changes; read once, all of its answers share its labels."""
        if version_id not in self._manifests:
            version = self._store.read(lambda view: view.get(VERSIONS, version_id))
            if len(self._manifests) >= _MAX_MANIFESTS:
                self._manifests.clear()
            self._manifests[version_id] = version.manifest if version is not None else None
        return self._manifests[version_id]


def answered(found: PredictionRecord, manifest: Manifest | None) -> AnsweredRows:
    """What was said of each row, or why that is not known."""
    made = AnsweredRows(endpoint=found.endpoint.id, revision=found.revision.number, at=found.prediction.at)
    said = found.prediction
    if said.status != 200:
        return msgspec.structs.replace(made, trouble=f"{said.prediction_id} failed: there was no answer.")
    if manifest is None or manifest.kind is ModelKind.OTHER or not manifest.signature.outputs:
        return msgspec.structs.replace(made, trouble="The model is neither a classifier nor a regression.")
    tensors = msgspec.json.decode(said.outputs, type=list[LoggedTensor] | None)
    name = manifest.signature.outputs[0].name
    first = next((tensor for tensor in tensors or () if tensor.name == name), None)
    rows = _rows(first, said.rows) if first is not None else None
    if rows is None:
        return msgspec.structs.replace(
            made, trouble=f"The answer of {said.prediction_id} was not logged: it is too large, or redacted."
        )
    if manifest.kind is ModelKind.CLASSIFICATION and len(first.shape if first else ()) != 2:
        return msgspec.structs.replace(
            made, trouble=f"The first output of the model, {name!r}, holds no score a class."
        )
    if any(not isinstance(cell, int | float) for row in rows for cell in row):
        return msgspec.structs.replace(made, trouble=f"The answer of {said.prediction_id} holds no numbers.")
    if manifest.kind is ModelKind.REGRESSION:
        return msgspec.structs.replace(made, rows=tuple(AnsweredRow(value=float(row[0])) for row in rows))
    labels = manifest.labels
    return msgspec.structs.replace(
        made,
        rows=tuple(_class(row, labels) for row in rows),
        classes=labels,
        num_classes=len(labels) or len(rows[0]),
    )


def _rows(tensor: LoggedTensor, num_rows: int) -> list[list[Any]] | None:
    """A tensor's numbers by row; None when they are not so many."""
    width = math.prod(tensor.shape[1:])
    if not num_rows or not width or len(tensor.data) != num_rows * width:
        return None
    return [tensor.data[start : start + width] for start in range(0, len(tensor.data), width)]


def _class(scores: list[float], labels: tuple[str, ...]) -> AnsweredRow:
    """The class with the highest score; its score is a confidence where all of them are chances."""
    best = max(range(len(scores)), key=scores.__getitem__)
    are_chances = min(scores) >= 0.0 and abs(sum(scores) - 1.0) <= _ENOUGH * len(scores)
    confidence = min(1.0, float(scores[best])) if are_chances else None
    return AnsweredRow(said=labels[best] if best < len(labels) else str(best), confidence=confidence)
