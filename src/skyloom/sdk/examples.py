"""A registered version in examples: what its columns know, and a row or a call that it would take."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.rooms.monitoring.model import Profile, Reduction
from skyloom.rooms.registry.bundle import ENCODING_FILE, PROFILE_FILE, Datatype, FeatureColumn, Manifest, TensorSpec
from skyloom.rooms.registry.services import ServiceMethod
from skyloom.sdk.transport import Transport

_MAX_BYTES = 64 * 2**20
_MAX_ELEMENTS = 64  # of a row that a person would type
_DIGITS = 3
_OF_SCHEMA: Mapping[str, Any] = {
    "string": "hello",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "array": [],
    "object": {},
}


class DescriptionDamaged(InvalidInput):
    """A file of a bundle that describes the model cannot be read."""


def texts_of(transport: Transport, manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """The columns that take texts, and the texts that each knows. Raises `DescriptionDamaged`."""
    columns: Sequence[FeatureColumn] = _read(transport, manifest, ENCODING_FILE, tuple[FeatureColumn, ...]) or ()
    return {column.name: column.values for column in columns if column.values}


def example_of(transport: Transport, manifest: Manifest) -> Any:
    """Inputs for one row, like those of training where a profile knows them; None where a row is too much to type.

    A row by its names where the columns have some; else a list of one row, or for several inputs a mapping of them.
    Raises `DescriptionDamaged`.
    """
    inputs = manifest.signature.inputs
    if not inputs or manifest.image is not None or sum(_num_elements(spec) for spec in inputs) > _MAX_ELEMENTS:
        return None
    usual = _usual(_read(transport, manifest, PROFILE_FILE, Profile))
    if manifest.is_tabular and inputs[0].datatype in (Datatype.FP32, Datatype.FP64):
        texts = texts_of(transport, manifest)
        named = enumerate(manifest.columns)
        return {name: texts[name][0] if name in texts else usual.get((inputs[0].name, at), 0.0) for at, name in named}
    rows = {spec.name: [_row(spec, usual)] for spec in inputs}
    return rows if len(rows) > 1 else next(iter(rows.values()))


def example_call(method: ServiceMethod) -> dict[str, Any]:
    """Arguments for an endpoint of a service or a function: those that it needs, by their schemas."""
    needed = (one for one in method.parameters if one.required)
    return {one.name: _argument(msgspec.json.decode(one.schema)) for one in needed}


def _argument(schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, dict) else None
    return _OF_SCHEMA.get(kind) if isinstance(kind, str) else None


def _row(spec: TensorSpec, usual: Mapping[tuple[str, int], float]) -> Any:
    """One row, nested as its shape says; a free axis has one element."""
    if spec.datatype is Datatype.BYTES:
        elements: list[Any] = ["hello"] * _num_elements(spec)
    elif spec.datatype is Datatype.BOOL:
        elements = [True] * _num_elements(spec)
    else:
        is_real = spec.datatype in (Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64)
        found = [usual.get((spec.name, at), 0.0) for at in range(_num_elements(spec))]
        elements = [one if is_real else int(one) for one in found]
    for axis in reversed(spec.shape[1:]):
        width = max(1, axis)
        elements = [elements[start : start + width] for start in range(0, len(elements), width)]
    return elements[0]


def _num_elements(spec: TensorSpec) -> int:
    product = 1
    for axis in spec.shape[1:]:
        product *= max(1, axis)
    return product


def _usual(profile: Profile | None) -> dict[tuple[str, int], float]:
    """Input and place → a value from the middle of what training has seen."""
    found = {}
    for feature in profile.features if profile is not None else ():
        if feature.reduction is Reduction.COLUMN and not feature.is_output and feature.edges:
            middle = feature.edges[len(feature.edges) // 2]
            found[feature.tensor, feature.column] = float(f"{middle:.{_DIGITS}g}")
    return found


def _read(transport: Transport, manifest: Manifest, name: str, kind: Any) -> Any:
    """A JSON file of a bundle; None where it has none."""
    file = next((one for one in manifest.files if one.path == name), None)
    if file is None:
        return None
    try:
        if file.size_bytes > _MAX_BYTES:
            raise ValueError("it is too large")
        return msgspec.json.decode(b"".join(transport.download(file.digest)), type=kind)
    except (ValueError, msgspec.MsgspecError) as error:
        raise DescriptionDamaged(
            f"The model's {name} cannot be read: {error}.", next_action="Export and register the model again."
        ) from error
