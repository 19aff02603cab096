"""Pure decisions of batch prediction: which column feeds which input, what comes out, and the job that does it."""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from skyloom.core.resources import Resources
from skyloom.ports.engine import PythonModule
from skyloom.rooms.batch.model import BatchOrder, NotPredictable
from skyloom.rooms.data.contents import Column
from skyloom.rooms.data.making import SOURCE_ROW, SPLIT_COLUMN, ColumnType, Predict
from skyloom.rooms.jobs.model import JobSpec
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.registry.bundle import ENCODING_FILE, Datatype, ImageInput, Manifest, ModelKind, TensorSpec

PROGRAM = "skyloom.recipes.predict"
PREDICTION, SCORE = "prediction", "score"
_RETRIES = 4
_NUMBERS = {ColumnType.INTEGER, ColumnType.FLOAT, ColumnType.BOOLEAN}
_FLOATS = {Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64}
_ENCODED = {ColumnType.ENCODED_IMAGE, ColumnType.BYTES}
_BULK = {ColumnType.VECTOR, ColumnType.IMAGE}


def takes(manifest: Manifest) -> tuple[str, ...]:
    """What a model takes, by its own names: its columns where they have names, else its inputs."""
    return manifest.columns if manifest.is_tabular else tuple(spec.name for spec in manifest.signature.inputs)


def fit(order: BatchOrder, manifest: Manifest, columns: Sequence[Column]) -> dict[str, str]:
    """Find a column for all that the model takes. Raises `NotPredictable`, naming the column, before anything runs."""
    known = {column.name: column for column in columns}
    names = takes(manifest)
    _check_asked(order, manifest, known)
    chosen = {name: order.columns.get(name, name) for name in names}
    if not manifest.is_tabular and len(names) == 1 and chosen[names[0]] not in known:
        chosen = {names[0]: _only_fitting(manifest, columns) or chosen[names[0]]}
    for name, column in chosen.items():
        if column not in known:
            raise NotPredictable(
                f"The model takes {name!r}, and dataset {order.dataset!r} has no column {column!r}.",
                next_action=f"Say which one it is: --column {name}=COLUMN. There are: {_listed(known)}.",
            )
    if manifest.is_tabular:
        has_texts = any(file.path == ENCODING_FILE for file in manifest.files)
        for name, column in chosen.items():
            _check_feature(name, known[column], has_texts)
    else:
        for spec in manifest.signature.inputs:
            found = known[chosen[spec.name]]
            trouble = (
                misfit_picture(manifest.image, spec, found) if _is_picture(manifest, spec) else misfit(spec, found)
            )
            if trouble:
                raise NotPredictable(trouble, next_action=f"Say which column it is: --column {spec.name}=COLUMN.")
    return chosen


def _check_asked(order: BatchOrder, manifest: Manifest, known: Mapping[str, Column]) -> None:
    strange = sorted(set(order.columns) - set(takes(manifest)))
    if strange:
        raise NotPredictable(
            f"Model {order.model!r} takes no {strange[0]!r}.", next_action=f"It takes: {_listed(takes(manifest))}."
        )
    for name in order.keep:
        if name not in known:
            raise NotPredictable(
                f"Column {name!r} is to be kept, and dataset {order.dataset!r} has none.",
                next_action=f"There are: {_listed(known)}.",
            )
        if name in outputs(manifest) or name == SOURCE_ROW:
            raise NotPredictable(
                f"Column {name!r} cannot be kept: a column of the predictions is called so.",
                next_action="Leave it out; source_row_id leads to it.",
            )
    if order.split and SPLIT_COLUMN not in known:
        raise NotPredictable(
            f"Dataset {order.dataset!r} is not split, so there is no part {order.split!r}.",
            next_action="Split it first: skyloom data split; or predict all rows.",
        )
    parts = known[SPLIT_COLUMN].top if order.split else {}
    if parts and order.split not in parts:
        raise NotPredictable(
            f"No row of dataset {order.dataset!r} is in the part {order.split!r}.",
            next_action=f"Its parts are: {_listed(parts)}.",
        )


def _only_fitting(manifest: Manifest, columns: Iterable[Column]) -> str:
    """The one column of images or vectors that an input takes, whatever it is called; empty when there are several or none."""
    spec = manifest.signature.inputs[0]
    if _is_picture(manifest, spec):
        wanted = _BULK | _ENCODED
        found = [one.name for one in columns if one.type in wanted and not misfit_picture(manifest.image, spec, one)]
    else:
        found = [one.name for one in columns if one.type in _BULK and not misfit(spec, one)]
    return found[0] if len(found) == 1 else ""


def _is_picture(manifest: Manifest, spec: TensorSpec) -> bool:
    return manifest.image is not None and manifest.image.tensor == spec.name


def misfit_picture(described: ImageInput | None, spec: TensorSpec, column: Column) -> str:
    """Why a column cannot be an input that takes pictures; empty when it can. Pixels are not scaled a second time, nor left unscaled."""
    if column.type in _ENCODED:
        if any(axis < 0 for axis in spec.shape[1:]):
            return f"Column {column.name!r} holds pictures, and the model's input {spec.name!r} leaves their size open."
        return ""
    if described is not None and (described.scale != 1.0 or described.mean or described.deviation):
        return (
            f"Column {column.name!r} is {column.type.value}; the model scales pictures itself, so it takes PNG or JPEG."
        )
    return misfit(spec, column)


def misfit(spec: TensorSpec, column: Column) -> str:
    """Why a column cannot be a whole input; empty when it can."""
    tail = spec.shape[1:]
    wanted = f"the model's input {spec.name!r} takes {spec.datatype} of {list(tail) or 'one number'} a row"
    if (column.type is ColumnType.TEXT) is not (spec.datatype is Datatype.BYTES):
        return f"Column {column.name!r} is {column.type.value}; {wanted}."
    if column.type in _NUMBERS or column.type is ColumnType.TEXT:
        shape: tuple[int, ...] = (1,)
        is_whole = column.type is not ColumnType.FLOAT
        tail = tail or (1,)
    elif column.type in _BULK:
        shape, is_whole = column.shape, column.type is ColumnType.IMAGE or "float" not in column.arrow_type
    else:
        return f"Column {column.name!r} is {column.type.value}; {wanted}."
    if len(shape) != len(tail) or any(want not in (-1, have) for want, have in zip(tail, shape, strict=True)):
        return f"Column {column.name!r} holds {list(shape)} a row; {wanted}."
    if not is_whole and spec.datatype not in _FLOATS:
        return f"Column {column.name!r} holds fractions; {wanted}."
    return ""


def _check_feature(name: str, column: Column, has_texts: bool) -> None:
    if column.type in _NUMBERS or (has_texts and column.type is ColumnType.TEXT):
        return
    raise NotPredictable(
        f"Column {column.name!r} is {column.type.value}; the model's {name!r} takes numbers"
        f"{' or texts' if has_texts else ''}.",
        next_action=f"Cast it first (skyloom data clean), or say which column it is: --column {name}=COLUMN.",
    )


def outputs(manifest: Manifest) -> dict[str, TensorSpec]:
    """The columns that predictions have → the output each comes from. Raises `NotPredictable` for outputs of no fixed size."""
    if manifest.service is not None or not manifest.signature.outputs:
        raise NotPredictable(
            "A service of your own Python is asked by its endpoints, not by rows.",
            next_action="Predict with a model; or ask the service from a job of yours: skyloom job run.",
        )
    first, found = manifest.signature.outputs[0], {}
    for spec in manifest.signature.outputs:
        if any(axis < 0 for axis in spec.shape[1:]):
            raise NotPredictable(
                f"The model's output {spec.name!r} has {list(spec.shape[1:])} a row, of any length: no column holds it.",
                next_action="Export the model with fixed axes, or ask an endpoint for predictions.",
            )
        if spec.datatype is Datatype.BYTES and math.prod(spec.shape[1:]) != 1:
            raise NotPredictable(
                f"The model's output {spec.name!r} has several texts a row: no column holds them.",
                next_action="Export the model with an output for each text.",
            )
        found[_column_name(spec.name)] = spec
    width = math.prod(first.shape[1:])
    if manifest.kind is ModelKind.CLASSIFICATION and len(first.shape) == 2:
        return {PREDICTION: first, SCORE: first, **found}
    if manifest.kind is ModelKind.REGRESSION and width == 1:
        return {PREDICTION: first, **{name: spec for name, spec in found.items() if spec is not first}}
    return found


def _column_name(output: str) -> str:
    return f"{output}_output" if output in (PREDICTION, SCORE, SOURCE_ROW, SPLIT_COLUMN) else output


def making(order: BatchOrder, dataset: str, version: int, model_version: int, columns: Mapping[str, str]) -> Predict:
    """An order with everything that was left open."""
    return Predict(
        dataset=dataset,
        version=version,
        model=order.model,
        model_version=model_version,
        split=order.split,
        columns=dict(columns),
        keep=order.keep,
    )


def check_target(order: BatchOrder, dataset: str) -> None:
    """Raise `NotPredictable` when the predictions would become a version of what they are about."""
    if order.to == dataset:
        raise NotPredictable(
            f"The predictions of {dataset!r} cannot be a version of it.", next_action="Give them another name: --to."
        )


def resources_of(manifest: Manifest, idle_cpus: float) -> Resources:
    """What a job gets when nobody says: the idle cores, and memory for reading, writing and a copy of the model on each."""
    cpus = max(1, math.floor(idle_cpus + 1e-6))
    size_bytes = sum(file.size_bytes for file in manifest.files)
    return Resources(cpus=cpus, memory_bytes=2 * 2**30 + 3 * size_bytes * cpus)


def job(order: BatchOrder, resources: Resources) -> JobSpec:
    """The job that predicts. It finds the versions that the order means, once, when it first runs."""
    told = msgspec.json.encode(order).decode()
    return JobSpec(
        name=f"predict {order.dataset} by {order.model}"[:400],
        entry=PythonModule(module=PROGRAM, args=("--order", told, "--cpus", f"{resources.cpus:g}")),
        resources=resources,
        max_retries=_RETRIES,
        labels={"dataset": order.to},
        pools=(LOCAL,),  # where the tables are
    )


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    return ", ".join(all_names[:20]) + (" …" if len(all_names) > 20 else "")
