"""What a model's tensors mean to people: rows with names and texts in, labels out. Read from the bundle; knows no wire."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from skyloom.core.errors import InvalidInput
from skyloom.inference.codec import unreadable
from skyloom.inference.elements import Array, as_numbers
from skyloom.inference.pictures import PictureReader
from skyloom.inference.rows import plain, read_column, read_rows
from skyloom.inference.runtimes.seam import refused
from skyloom.inference.tensors import Contract, refuse
from skyloom.rooms.registry.bundle import ENCODING_FILE, Datatype, FeatureColumn, Manifest, ModelKind

Cell = float | str | bool | None
_MAX_ENCODING_BYTES = 64 * 2**20
_cells = msgspec.json.Decoder(dict[str, Cell])


class Form:
    """The names of one model's inputs and outputs. Raises `BundleRefused` when the bundle's descriptions do not fit its signature."""

    def __init__(self, contract: Contract, manifest: Manifest, texts: Sequence[FeatureColumn] = ()) -> None:
        signature = contract.signature
        self.contract = contract
        self.manifest = manifest
        self.inputs = {spec.name: spec for spec in signature.inputs}
        first = signature.inputs[0] if signature.inputs else None
        width = first.shape[1] if first is not None and len(first.shape) == 2 else 0
        self.columns = manifest.columns if len(self.inputs) == 1 and len(manifest.columns) == width else ()
        if self.columns and first is not None and first.datatype not in (Datatype.FP32, Datatype.FP64):
            self.columns = ()
        self._texts = {one.name: {text: float(at) for at, text in enumerate(one.values)} for one in texts if one.values}
        self.pictures: PictureReader | None = None
        if manifest.image is not None:
            if manifest.image.tensor not in self.inputs:
                raise refused(
                    f"it describes pictures for {manifest.image.tensor!r}, which is no input", "Export the model again."
                )
            self.pictures = PictureReader(manifest.image, self.inputs[manifest.image.tensor])

    @property
    def fields(self) -> tuple[str, ...]:
        """What a row names: columns, or inputs."""
        return self.columns or tuple(self.inputs)

    def read(self, rows: Sequence[msgspec.Raw]) -> dict[str, Array]:
        """Inputs out of rows, each an object of `fields`, or for one input also its bare value. Raises `TensorRefused`,
        `RequestUnreadable`."""
        if not rows:
            raise refuse("There are no rows.", "Send at least one.")
        is_bare = not bytes(rows[0]).lstrip().startswith(b"{")
        if is_bare and len(self.inputs) == 1:
            ((name, spec),) = self.inputs.items()
            return {name: read_column(self.contract, spec, [bytes(row) for row in rows])}
        try:
            if self.columns:
                return self.read_cells([_cells.decode(row) for row in rows])
            kind = dict[str, msgspec.Raw]
            return read_rows(self.contract, [msgspec.json.decode(row, type=kind) for row in rows])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise unreadable(f"A row cannot be read: {error}.", f"A row has: {', '.join(self.fields)}.") from None

    def read_cells(self, rows: Sequence[Mapping[str, Cell]]) -> dict[str, Array]:
        """The one input of a tabular model out of rows by column; null is a missing value. Raises `TensorRefused`."""
        ((name, spec),) = self.inputs.items()
        known = set(self.columns)
        made = np.empty((len(rows), len(self.columns)), np.float64)
        for at, row in enumerate(rows):
            if row.keys() != known:
                raise self._differing(row)
            made[at] = [self._number(column, row[column]) for column in self.columns]
        spec = self.contract.expect(name, spec.datatype.value, made.shape)
        with np.errstate(over="ignore"):
            return {name: made.astype(np.float32 if spec.datatype is Datatype.FP32 else np.float64)}

    def told(self, outputs: Sequence[Array]) -> list[dict[str, Any]]:
        """Each row's answer: all outputs by name, and what the first one means."""
        specs = self.contract.signature.outputs
        whole = [plain(spec, output) for spec, output in zip(specs, outputs, strict=True)]
        rows = [
            {"outputs": dict(zip((spec.name for spec in specs), row, strict=True))} for row in zip(*whole, strict=True)
        ]
        for row, meaning in zip(rows, self._meanings(outputs), strict=True):
            row.update(meaning)
        return rows

    def _meanings(self, outputs: Sequence[Array]) -> list[dict[str, Any]]:
        kind, labels = self.manifest.kind, self.manifest.labels
        first, spec = outputs[0], self.contract.signature.outputs[0]
        if spec.datatype is Datatype.BYTES or kind is ModelKind.OTHER or not first.size:
            return [{} for _ in first]
        scores = as_numbers(spec.datatype, first).reshape(len(first), -1)
        if kind is ModelKind.REGRESSION:
            return [{"prediction": value} for value in scores[:, 0].tolist()]
        best = scores.argmax(axis=1)
        winners = scores[np.arange(len(best)), best].tolist()
        return [
            {"label": labels[place] if place < len(labels) else place, "score": score}
            for place, score in zip(best.tolist(), winners, strict=True)
        ]

    def _number(self, column: str, value: Cell) -> float:
        texts = self._texts.get(column)
        if value is None:
            return float("nan")
        if texts is not None:
            return texts.get(str(value), float("nan"))  # as in training: an unknown text is a missing one
        if isinstance(value, str):
            raise refuse(f"The field {column!r} is a text; the model takes a number.", "Send a number or null.")
        return float(value)

    def _differing(self, row: Mapping[str, Cell]) -> InvalidInput:
        missing = next((column for column in self.columns if column not in row), None)
        if missing is not None:
            return refuse(f"The field {missing[:80]!r} is missing.", "Send every column; null for a missing value.")
        unknown = next(name for name in row if name not in self.columns)
        return refuse(f"The model has no field {unknown[:80]!r}.", f"A row has: {', '.join(self.columns)[:400]}.")


def read_texts(bundle: Path, manifest: Manifest) -> tuple[FeatureColumn, ...]:
    """The texts that a bundle's columns know. Raises `BundleRefused` when its file of them is damaged."""
    if ENCODING_FILE not in {file.path for file in manifest.files}:
        return ()
    path = bundle / ENCODING_FILE
    try:
        if path.stat().st_size > _MAX_ENCODING_BYTES:
            raise ValueError("too large")
        return msgspec.json.decode(path.read_bytes(), type=tuple[FeatureColumn, ...])
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise refused(f"its {ENCODING_FILE} cannot be read", "Export the model again.") from error
