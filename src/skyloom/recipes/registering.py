"""Models from elsewhere into the registry: an estimator of scikit-learn, XGBoost or LightGBM, or a model file.

Estimators become ONNX here, where they were trained, and are compared with themselves on real rows. What the cloud gets is never a pickle.
"""

import shutil
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from skyloom.core.digests import of_bytes, of_chunks
from skyloom.core.errors import InvalidInput
from skyloom.inference import runtimes
from skyloom.inference.reduce import build_profile
from skyloom.inference.runtimes.onnx_files import external_files
from skyloom.inference.runtimes.seam import Grant
from skyloom.inference.tensors import Array
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import (
    ENCODING_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    PROFILE_FILE,
    TEXTUAL,
    BundleFile,
    Manifest,
    ModelKind,
    RuntimeName,
    Signature,
    TextLimits,
)
from skyloom.rooms.registry.graphs import ModelGraph, nested
from skyloom.rooms.registry.model import ModelVersion, Parity
from skyloom.runtime.estimators import TOLERANCE, convert, expected
from skyloom.sdk.client import Client
from skyloom.sdk.composing import complete, signature_of
from skyloom.sdk.files import read_chunks, upload_bytes, upload_file

_PROFILE_ROWS = 10_000
_MAX_SHARE = 0.02
_MAX_LUCK = 0.5  # thresholds explain no more
_SUFFIXES = {Path(file).suffix: name for name, file in MODEL_FILES.items() if name is not RuntimeName.GRAPH}
GRAPH_SUFFIX = ".toml"
_TAKEN = {*MODEL_FILES.values(), MANIFEST_FILE, PROFILE_FILE, ENCODING_FILE}  # names that mean something in a bundle
_ESTIMATORS = "Register the fitted estimator from Python, as ONNX: skyloom.recipes.registering.register_estimator."
_TORCH = "Export it: torch.onnx.export(model, (example,), 'model.onnx', dynamic_shapes=…), or torch.export.save(…, 'model.pt2')."
_OTHERWISE = dict.fromkeys((".pkl", ".pickle", ".joblib"), _ESTIMATORS) | dict.fromkeys(
    (".pt", ".pth", ".safetensors"), _TORCH
)


class EstimatorDiffers(InvalidInput):
    """The converted estimator says something else than the estimator itself."""


class FileNotServable(InvalidInput):
    """The file is of no kind that a runtime loads."""


def register_estimator(
    cloud: Client, name: str, estimator: Any, rows: Any, *, columns: Sequence[str] = (), description: str = ""
) -> ModelVersion:
    """Register a fitted estimator or pipeline of numeric columns. Raises `NotConvertible`, `EstimatorDiffers`.

    Args:
        rows: [rows, features], best rows that it was not fitted on: for the comparison, and for the profile that live traffic is
            compared with.
        columns: what each feature is called.

    The model takes ``x`` as FP32 [batch, features]; a classifier gives ``scores`` per class, a regressor ``value`` [batch, 1].
    """
    features = np.ascontiguousarray(rows, np.float32)
    converted = convert(estimator, features.shape[1])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / MODEL_FILES[RuntimeName.ONNX]
        path.write_bytes(converted.content)
        manifest = Manifest(
            kind=ModelKind.CLASSIFICATION if converted.labels else ModelKind.REGRESSION,
            signature=converted.signature,
            files=(_listed(path.name, converted.content),),
            labels=converted.labels,
            columns=tuple(columns),
        )
        said = runtimes.find(RuntimeName.ONNX).load(path.parent, manifest, Grant(1)).run([features])[0]
    parity = _compared(expected(estimator, features), said)
    seen = features[:_PROFILE_ROWS]
    output = converted.signature.outputs[0].name
    profile = build_profile({"x": seen}, {output: said[: len(seen)]}, manifest.kind, tuple(columns))
    return _register(cloud, name, manifest, [(converted.content)], profile, parity, description)


def register_file(
    cloud: Client, name: str, path: str | Path, *, description: str = "", text: TextLimits | None = None
) -> ModelVersion:
    """Register a model file as it is: ``.onnx``; ``.tflite`` or ``.pt2`` where their libraries are installed; ``.gguf``, a language model;
    ``.toml``, a graph of registered models (see `register_graph`). Weights that an ONNX graph has in files beside it go along.

    Args:
        text: of a language model: how much text at once.

    Raises `FileNotServable`, `BundleRefused`.
    """
    path = Path(path)
    if path.suffix == GRAPH_SUFFIX and path.is_file():
        return register_graph(cloud, name, read_graph(path), description=description)
    runtime_name = _SUFFIXES.get(path.suffix)
    if not path.is_file():
        raise FileNotServable(f"There is no file {path}.", next_action="Check the path.")
    if runtime_name is None:
        raise FileNotServable(
            f"{path.name} is no model file that can be served.",
            next_action=_OTHERWISE.get(path.suffix, f"Name one of: {', '.join((*_SUFFIXES, GRAPH_SUFFIX))}."),
        )
    if text is not None and runtime_name not in TEXTUAL:
        raise FileNotServable(f"{path.name} is no language model.", next_action="Leave the limits of text out.")
    signature = Signature(inputs=(), outputs=())
    beside = _weights(path) if runtime_name is RuntimeName.ONNX else []
    listed = (_listed_file(MODEL_FILES[runtime_name], path), *(_listed_file(file.name, file) for file in beside))
    if runtime_name is RuntimeName.GGUF:
        _check_gguf(path)
    else:
        signature = _signature(path, beside, runtime_name, listed)
    manifest = Manifest(runtime=runtime_name, signature=signature, files=listed, text=text)
    return _register(cloud, name, manifest, [path, *beside], Profile(), None, description)


def read_graph(path: Path) -> ModelGraph:
    """A graph as somebody wrote it, in TOML. Raises `FileNotServable`."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), ModelGraph, strict=True)
    except (ValueError, msgspec.MsgspecError) as error:
        raise FileNotServable(
            f"{path.name} is no graph of models: {error}.", next_action="Write [models], [edges] and [outputs]."
        ) from error


def register_graph(cloud: Client, name: str, graph: ModelGraph, *, description: str = "") -> ModelVersion:
    """Register a graph of registered models as a model of its own: their versions are pinned now, their edges checked now.

    What the model of its first output means (labels) and what its input takes (columns, pictures) is what they mean in the graph.
    Raises `EdgeInvalid`, `FileNotServable`.
    """
    versions = {}
    for place, reference in graph.models.items():
        model, _, version = reference.partition(":")
        versions[place] = cloud.models.version(model, version or "newest")
        if versions[place].manifest.runtime not in (RuntimeName.ONNX, RuntimeName.LITERT):
            raise FileNotServable(
                f"The model {reference} cannot be part of a graph: it runs in a process of its own.",
                next_action="Put it beside a skyloom.Service: models = {…}, edges = {…}.",
            )
    manifests = {place: version.manifest for place, version in versions.items()}
    whole = complete(graph, {place: manifest.signature for place, manifest in manifests.items()})
    pinned = {place: f"{version.model}:{version.number}" for place, version in versions.items()}
    contents = [msgspec.json.encode(msgspec.structs.replace(whole, models=pinned))]
    files = [_listed(MODEL_FILES[RuntimeName.GRAPH], contents[0])]
    for place, manifest in manifests.items():
        contents.append(msgspec.json.encode(manifest))
        files.append(_listed(f"{nested(place)}/{MANIFEST_FILE}", contents[-1]))
        files += [msgspec.structs.replace(file, path=f"{nested(place)}/{file.path}") for file in manifest.files]
    manifest = _meaning(whole, manifests, files)
    return _register(cloud, name, manifest, contents, Profile(), None, description)


def _meaning(graph: ModelGraph, manifests: Mapping[str, Manifest], files: Sequence[BundleFile]) -> Manifest:
    signature = signature_of(graph, {place: manifest.signature for place, manifest in manifests.items()})
    ends = next(iter(graph.outputs.values()))
    last = manifests[ends[0].partition(".")[0]]
    is_first = ends[0].partition(".")[2] == last.signature.outputs[0].name
    entries = {end: name for name, ends in graph.inputs.items() for end in ends}
    images = [
        msgspec.structs.replace(one.image, tensor=entries[f"{place}.{one.image.tensor}"])
        for place, one in manifests.items()
        if one.image is not None and f"{place}.{one.image.tensor}" in entries
    ]
    tables = [one for place, one in manifests.items() if one.columns and _inputs(place, one) <= set(entries)]
    table = tables[0] if tables and len(signature.inputs) == 1 else None
    texts = [file for file in table.files if file.path == ENCODING_FILE] if table else []
    return Manifest(
        runtime=RuntimeName.GRAPH,
        kind=last.kind if is_first else ModelKind.OTHER,
        labels=last.labels if is_first else (),
        columns=table.columns if table else (),
        image=images[0] if images else None,
        signature=signature,
        files=(*files, *texts),
    )


def _inputs(place: str, manifest: Manifest) -> set[str]:
    return {f"{place}.{spec.name}" for spec in manifest.signature.inputs}


def _signature(path: Path, beside: Sequence[Path], name: RuntimeName, listed: tuple[BundleFile, ...]) -> Signature:
    """What a file takes and gives; it is loaded once, as a replica will."""
    runtime = runtimes.find(name)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / runtime.model_file
        place.symlink_to(path.absolute())
        for file in beside:  # ONNX Runtime follows no link out of the folder
            shutil.copyfile(file, place.parent / file.name)
        signature: Signature = runtime.signature(place)
        runtime.load(place.parent, Manifest(runtime=name, signature=signature, files=listed), Grant(1)).close()
    return signature


def _weights(path: Path) -> list[Path]:
    """Files beside a graph that hold its weights. Raises `FileNotServable` where one is absent, or not beside it."""
    try:
        names = external_files(path.read_bytes())
    except ValueError as error:
        raise FileNotServable(
            f"{path.name} is no ONNX file: {error}.", next_action="Export the model again."
        ) from error
    for name in names:
        if name != Path(name).name or name in _TAKEN:
            raise FileNotServable(
                f"{path.name} has weights in {name!r}.",
                next_action="Export it with its weights inside (torch.onnx.export(…, external_data=False)), or in a file beside it.",
            )
        if not (path.parent / name).is_file():
            raise FileNotServable(
                f"{path.name} has its weights in {name}, which is not beside it.",
                next_action="Put both into one folder.",
            )
    return [path.parent / name for name in names]


def _check_gguf(path: Path) -> None:
    """Its head alone: the library that reads all of it is where replicas run."""
    with path.open("rb") as content:
        head = content.read(8)
    if head[:4] != b"GGUF" or int.from_bytes(head[4:], "little") not in (2, 3):
        raise FileNotServable(f"{path.name} is no GGUF file of version 2 or 3.", next_action="Convert the model again.")


def _register(
    cloud: Client,
    name: str,
    manifest: Manifest,
    files: Sequence[Path | bytes],
    profile: Profile,
    parity: Parity | None,
    description: str,
) -> ModelVersion:
    watched = msgspec.json.encode(profile)
    for content in (*files, watched):
        if isinstance(content, bytes):
            upload_bytes(cloud.transport, content)
        else:
            upload_file(cloud.transport, content)
    manifest = msgspec.structs.replace(manifest, files=(*manifest.files, _listed(PROFILE_FILE, watched)))
    return cloud.models.register(name, manifest, parity=parity, description=description)


def _compared(ours: Array, theirs: Array) -> Parity:
    """Nearly all rows must agree. A value that lies on a tree's threshold may fall to either side of it: 32-bit floats are coarser."""
    differences = (np.abs(ours - theirs) / np.maximum(1.0, np.abs(ours))).max(axis=1)
    share = float((~(differences <= TOLERANCE)).mean())
    if share > _MAX_SHARE:
        raise EstimatorDiffers(
            f"The converted estimator differs from the estimator by up to {differences.max():.2g}, "
            f"by more than {TOLERANCE:g} on {share:.0%} of the rows.",
            next_action="Its converter does not do this kind; serve it as your own Python: skyloom.Service."
            if share > _MAX_LUCK
            else "Fit it on 32-bit floats (rows.astype('float32')), that is what it is served with; trees need no scaler.",
        )
    return Parity(batch_sizes=(len(ours),), largest_difference=float(differences.max()), tolerance=TOLERANCE)


def _listed_file(name: str, path: Path) -> BundleFile:
    return BundleFile(path=name, digest=of_chunks(read_chunks(path)), size_bytes=path.stat().st_size)


def _listed(name: str, content: bytes) -> BundleFile:
    return BundleFile(path=name, digest=of_bytes(content), size_bytes=len(content))
