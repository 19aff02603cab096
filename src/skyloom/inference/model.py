"""A loaded model: a bundle whose every byte was verified, in the runtime it names."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from skyloom.core.errors import SkyloomError
from skyloom.inference import runtimes
from skyloom.inference.runtimes.seam import BundleRefused, Grant, LoadedModel, ModelFailed, Slot, refused
from skyloom.inference.tensors import DTYPES, Array
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import (
    MANIFEST_FILE,
    PROFILE_FILE,
    BundleFile,
    Datatype,
    Manifest,
    TensorSpec,
)

__all__ = ["BundleRefused", "Model", "ModelFailed", "load", "thread_count"]

_MAX_JSON_BYTES = 64 * 2**20
_USUAL_LENGTH = 32


class Model:
    """One model in memory. `run` may be called from one thread at a time, and `run_beside` from as many as there are lanes.

    Attributes:
        lanes: how many batches may run beside each other, each on one core; 1 when that gains nothing, and then only `run` is called.
        is_remote: it runs in another process, so `run` waits and may never be called on the event loop.
        work_clock: CPU seconds of the thread that calls `run`, where that thread does all of the work; None where others do.
    """

    def __init__(
        self,
        manifest: Manifest,
        profile: Profile,
        session: LoadedModel,
        platform: str,
        is_remote: bool = False,
        work_clock: Callable[[], float] | None = None,
    ) -> None:
        self.work_clock = work_clock
        self.is_remote = is_remote
        self.manifest = manifest
        self.profile = profile
        self.platform = platform
        self.memory_bytes = session.memory_bytes
        self._session = session
        self._beside: LoadedModel | None = None
        self.lanes = 1
        self._outputs = manifest.signature.outputs
        self._length: int | None = None

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Infer; all outputs in the order of the signature. Raises `ModelFailed`."""
        return self._run(self._session, inputs)

    def run_beside(self, inputs: Sequence[Array]) -> list[Array]:
        """As `run`, on one core, while others do the same. Raises `ModelFailed`."""
        assert self._beside is not None
        return self._run(self._beside, inputs)

    def open_lanes(self, session: LoadedModel, lanes: int) -> None:
        """Take a session of one thread that may run on several at once."""
        self._beside, self.lanes = session, lanes
        self.memory_bytes += session.memory_bytes

    def close_lanes(self) -> None:
        """Let go of that session again."""
        if self._beside is not None:
            self.memory_bytes -= self._beside.memory_bytes
            self._beside.close()
        self._beside, self.lanes = None, 1

    def _run(self, session: LoadedModel, inputs: Sequence[Array]) -> list[Array]:
        try:
            outputs = session.run(inputs)
        except ModelFailed:
            raise
        except SkyloomError as error:
            raise ModelFailed(error.message, next_action=error.next_action) from error
        except Exception as error:  # whatever a runtime raises ends here; its text may hold paths
            raise ModelFailed(
                "The model failed on this input.", next_action="Ask the operator to look at the replica's output."
            ) from error
        for spec, output in zip(self._outputs, outputs, strict=True):
            if len(output.shape) != len(spec.shape) or output.shape[0] != len(inputs[0]):
                raise ModelFailed(
                    f"Output {spec.name!r} has shape {list(output.shape)} for {len(inputs[0])} rows.",
                    next_action=f"Export the model again: its signature promises {list(spec.shape)}.",
                )
        return outputs

    def close(self) -> None:
        """Let go of the model; `run` is not called any more."""
        self.close_lanes()
        self._session.close()

    def example(self, rows: int, length: int = 1) -> list[Array]:
        """Inputs of zeros and empty strings, free axes ``length`` long."""
        return [
            np.full(
                [rows, *(length if axis < 1 else axis for axis in spec.shape[1:])],
                "" if spec.datatype is Datatype.BYTES else 0,
                dtype=DTYPES[spec.datatype],
            )
            for spec in self.manifest.signature.inputs
        ]

    def rehearsal(self, rows: int) -> Callable[[], object]:
        """A batch of single rows of zeros, to be put together and run: both are timed. Free axes have a usual length, or one where the
        model does not take that."""
        parts = self.usual(1)
        if rows == 1:
            return lambda: self.run(parts)
        # Putting rows together is a part of what a batch costs; of large rows, a large one.
        return lambda: self.run([np.concatenate([part] * rows) for part in parts])

    def usual(self, rows: int) -> list[Array]:
        """As `example`, with a usual length on free axes, or one where the model does not take that."""
        if self._length is None:
            try:
                self.run(self.example(1, _USUAL_LENGTH))
                self._length = _USUAL_LENGTH
            except ModelFailed:
                self._length = 1
        return self.example(rows, self._length)


def load(folder: Path, threads: int, manifest_digest: str = "", gpus: int = 0) -> Model:
    """Verify a bundle and load it. Raises `BundleRefused`; then nothing was loaded."""
    return load_verified(folder, verify(folder, manifest_digest), threads, gpus)


def load_verified(folder: Path, manifest: Manifest, threads: int, gpus: int = 0) -> Model:
    """Load a bundle whose files are known to be what they should be. Raises `BundleRefused`; then nothing was loaded."""
    runtime = runtimes.find(manifest.runtime)
    listed = {file.path for file in manifest.files}
    if runtime.model_file not in listed:
        raise refused(f"{runtime.model_file} is not among its files", "Export the model again.")
    if any(spec.shape[0] != -1 for spec in (*manifest.signature.inputs, *manifest.signature.outputs)):
        raise refused("a tensor's first axis is not the batch (-1)", "Export it with a dynamic batch.")
    profile = read_profile(folder, manifest)
    session = runtime.load(folder, manifest, Grant(threads, gpus))
    _compare("input", manifest.signature.inputs, session.inputs, runtime.model_file)
    _compare("output", manifest.signature.outputs, session.outputs, runtime.model_file)
    work_clock = time.thread_time if threads == 1 and not gpus else None
    return Model(manifest, profile, session, runtime.platform, work_clock=work_clock)


def read_profile(folder: Path, manifest: Manifest) -> Profile:
    """What a bundle says of its training's rows; an empty profile when it says nothing. Raises `BundleRefused`."""
    listed = {file.path for file in manifest.files}
    found: Profile = _read(folder / PROFILE_FILE, Profile) if PROFILE_FILE in listed else Profile()
    return found


def verify(folder: Path, manifest_digest: str = "") -> Manifest:
    """Compare every file of a bundle with its digest; return its manifest. Raises `BundleRefused`."""
    if manifest_digest:
        size_bytes = (folder / MANIFEST_FILE).stat().st_size if (folder / MANIFEST_FILE).is_file() else 0
        _verify(folder, BundleFile(path=MANIFEST_FILE, digest=manifest_digest, size_bytes=size_bytes))
    manifest: Manifest = _read(folder / MANIFEST_FILE, Manifest)
    if manifest.format != 1:
        raise refused(f"its format is {manifest.format}", "Update Skyloom, or export the model again.")
    for file in manifest.files:
        _verify(folder, file)
    return manifest


def _read(path: Path, kind: Any) -> Any:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise refused(f"{path.name} is larger than {_MAX_JSON_BYTES} bytes", "Export the model again.")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise refused(f"{path.name} cannot be read", "Fetch the bundle again.") from error
    except msgspec.MsgspecError as error:
        raise refused(f"{path.name} is damaged: {error}", "Fetch the bundle again.") from error


def _verify(folder: Path, file: BundleFile) -> None:
    path = folder / file.path
    # A link could point outside of the bundle, or be changed behind the digest's back.
    if any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(folder) and part != folder):
        raise refused(f"{file.path} is a link", "Fetch the bundle again.")
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            size = content.tell()
    except OSError as error:
        raise refused(f"{file.path} cannot be read", "Fetch the bundle again.") from error
    if size != file.size_bytes or f"sha256:{digest}" != file.digest:
        raise refused(f"{file.path} does not match its digest", "Fetch the bundle again; never serve these bytes.")


def _compare(what: str, specs: Sequence[TensorSpec], slots: Sequence[Slot], model_file: str) -> None:
    found = {slot.name: slot for slot in slots}
    missing = [spec.name for spec in specs if not _is_same(spec, found.get(spec.name))]
    if what == "input":
        promised = {spec.name for spec in specs}
        missing += [name for name in found if name not in promised]
    if missing:
        raise refused(f"its signature and {model_file} disagree about {what} {missing[0]!r}", "Export the model again.")


def _is_same(spec: TensorSpec, slot: Slot | None) -> bool:
    return slot is not None and slot.datatype in ("", spec.datatype) and slot.rank in (None, len(spec.shape))


def thread_count(cpus: float) -> int:
    """Threads of one inference on so many cores."""
    return max(1, math.floor(cpus))
