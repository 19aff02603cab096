"""A loaded model: a bundle whose every byte was verified, in ONNX Runtime, with what its speed was measured to be."""

import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from skyloom.core.errors import InternalError, InvalidInput
from skyloom.inference.tensors import DTYPES, Array
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import (
    MANIFEST_FILE,
    MODEL_FILE,
    PROFILE_FILE,
    BundleFile,
    Datatype,
    Manifest,
    TensorSpec,
)

_MAX_JSON_BYTES = 64 * 2**20
_WARM_ROWS = 16
_ONNX_TYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
}


class BundleRefused(InvalidInput):
    """A bundle is incomplete, damaged, or not what its manifest says. Nothing of it is loaded."""


class ModelFailed(InternalError):
    """The model raised, or its answer is not what its signature promises."""


class Model:
    """One model in memory. `run` may be called from one thread at a time."""

    def __init__(self, manifest: Manifest, profile: Profile, session: Any) -> None:
        self.manifest = manifest
        self.profile = profile
        self._session = session
        self._inputs = [spec.name for spec in manifest.signature.inputs]
        self._outputs = manifest.signature.outputs
        self._output_names = [spec.name for spec in self._outputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Infer; all outputs in the order of the signature. Raises `ModelFailed`."""
        try:
            outputs = self._session.run(self._output_names, dict(zip(self._inputs, inputs, strict=True)))
        except Exception as error:  # whatever ONNX Runtime raises ends here; its text may hold paths
            raise ModelFailed(
                "The model failed on this input.", next_action="Ask the operator to look at the replica's output."
            ) from error
        for spec, output in zip(self._outputs, outputs, strict=True):
            if len(output.shape) != len(spec.shape) or output.shape[0] != len(inputs[0]):
                raise ModelFailed(
                    f"Output {spec.name!r} has shape {list(output.shape)} for {len(inputs[0])} rows.",
                    next_action=f"Export the model again: its signature promises {list(spec.shape)}.",
                )
        return outputs  # type: ignore[no-any-return]

    def example(self, rows: int) -> list[Array]:
        """Inputs of zeros, free axes one long, for warming up."""
        specs = self.manifest.signature.inputs
        return [
            np.zeros([rows, *(max(axis, 1) for axis in spec.shape[1:])], dtype=DTYPES[spec.datatype]) for spec in specs
        ]


class Pace:
    """How long a batch takes: a fixed part and a part per row, measured once and then stretched to what is seen.

    Attributes:
        joins: True when measurement says that rows travel cheaper together than alone.
    """

    def __init__(self, one_row_s: float, many_rows_s: float) -> None:
        self._row_s = max((many_rows_s - one_row_s) / (_WARM_ROWS - 1), 1e-7)
        self._fixed_s = max(one_row_s - self._row_s, 1e-6)
        self._stretch = 1.0
        self.joins = many_rows_s < 0.95 * one_row_s * _WARM_ROWS

    @classmethod
    def measure(cls, model: Model) -> "Pace":
        """Run the model a few times on zeros. Raises `ModelFailed` when it cannot take its own signature's shape."""
        one, many = model.example(1), model.example(_WARM_ROWS)
        return cls(min(_timed(model, one) for _ in range(5)), min(_timed(model, many) for _ in range(5)))

    def expect_s(self, batches: int, rows: int) -> float:
        """Seconds that ``rows`` in so many batches will take."""
        return self._stretch * (batches * self._fixed_s + rows * self._row_s)

    def saw(self, rows: int, duration_s: float) -> None:
        """Learn from one batch."""
        seen = duration_s / (self._fixed_s + rows * self._row_s)
        self._stretch += 0.05 * (min(seen, 50.0) - self._stretch)


def load(folder: Path, threads: int, manifest_digest: str = "") -> Model:
    """Verify a bundle and load it. Raises `BundleRefused`; then nothing was loaded."""
    if manifest_digest:
        size_bytes = (folder / MANIFEST_FILE).stat().st_size if (folder / MANIFEST_FILE).is_file() else 0
        _verify(folder, BundleFile(path=MANIFEST_FILE, digest=manifest_digest, size_bytes=size_bytes))
    manifest = _read(folder / MANIFEST_FILE, Manifest)
    if manifest.format != 1:
        raise _refused(f"its format is {manifest.format}", "Update Skyloom, or export the model again.")
    listed = {file.path for file in manifest.files}
    if MODEL_FILE not in listed:
        raise _refused(f"{MODEL_FILE} is not among its files", "Export the model again.")
    for file in manifest.files:
        _verify(folder, file)
    if any(spec.shape[0] != -1 for spec in (*manifest.signature.inputs, *manifest.signature.outputs)):
        raise _refused("a tensor's first axis is not the batch (-1)", "Export it with a dynamic batch.")
    profile = _read(folder / PROFILE_FILE, Profile) if PROFILE_FILE in listed else Profile()
    session = _session(folder / MODEL_FILE, threads)
    _compare("input", manifest.signature.inputs, session.get_inputs())
    _compare("output", manifest.signature.outputs, session.get_outputs())
    return Model(manifest, profile, session)


def _read(path: Path, kind: Any) -> Any:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise _refused(f"{path.name} is larger than {_MAX_JSON_BYTES} bytes", "Export the model again.")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise _refused(f"{path.name} cannot be read", "Fetch the bundle again.") from error
    except msgspec.MsgspecError as error:
        raise _refused(f"{path.name} is damaged: {error}", "Fetch the bundle again.") from error


def _verify(folder: Path, file: BundleFile) -> None:
    path = folder / file.path
    # A link could point outside of the bundle, or be changed behind the digest's back.
    if any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(folder) and part != folder):
        raise _refused(f"{file.path} is a link", "Fetch the bundle again.")
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            size = content.tell()
    except OSError as error:
        raise _refused(f"{file.path} cannot be read", "Fetch the bundle again.") from error
    if size != file.size_bytes or f"sha256:{digest}" != file.digest:
        raise _refused(f"{file.path} does not match its digest", "Fetch the bundle again; never serve these bytes.")


def _session(path: Path, threads: int) -> Any:
    # Not above: it starts a thread when it is imported, and the warm process that replicas are forked from must not have any.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads win microseconds for one replica and take the cores of all others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # From bytes: external data files, which the path form would look for on disk, are refused by this.
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refused(f"{MODEL_FILE} cannot be loaded by ONNX Runtime", "Export the model again.") from error


def _compare(what: str, specs: Sequence[TensorSpec], nodes: Sequence[Any]) -> None:
    found = {node.name: (_ONNX_TYPES.get(node.type), len(node.shape)) for node in nodes}
    promised = {spec.name: (spec.datatype, len(spec.shape)) for spec in specs}
    missing = [name for name, kind in promised.items() if found.get(name) != kind]
    if what == "input":
        missing += [name for name in found if name not in promised]
    if missing:
        raise _refused(
            f"its signature and {MODEL_FILE} disagree about {what} {missing[0]!r}", "Export the model again."
        )


def _timed(model: Model, inputs: Sequence[Array]) -> float:
    start = time.perf_counter()
    model.run(inputs)
    return time.perf_counter() - start


def _refused(reason: str, next_action: str) -> BundleRefused:
    return BundleRefused(f"The model bundle is refused: {reason}.", next_action=next_action)


def thread_count(cpus: float) -> int:
    """Threads of one inference on so many cores."""
    return max(1, math.floor(cpus))
