"""Programs of ``torch.export`` (``.pt2``): screened first (`torch_screen`), then run by torch without gradients."""

import io
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skyloom.inference.runtimes.seam import Grant, LoadedModel, Slot, refused
from skyloom.inference.runtimes.torch_screen import ArchiveUnsafe, screened
from skyloom.inference.tensors import Array
from skyloom.rooms.registry.bundle import MODEL_FILES, Datatype, Manifest, RuntimeName, Signature, TensorSpec

_FILE = MODEL_FILES[RuntimeName.TORCH]
_DATATYPES = {
    torch.bool: Datatype.BOOL,
    torch.uint8: Datatype.UINT8,
    torch.int8: Datatype.INT8,
    torch.int16: Datatype.INT16,
    torch.int32: Datatype.INT32,
    torch.int64: Datatype.INT64,
    torch.float16: Datatype.FP16,
    torch.float32: Datatype.FP32,
    torch.float64: Datatype.FP64,
}
_NO_SAMPLES = "data/sample_inputs/model.pt"


class TorchModel:
    """One exported program."""

    def __init__(self, manifest: Manifest, program: Any, device: str, size_bytes: int) -> None:
        self._names = program.graph_signature.user_outputs
        self._wanted = [spec.name for spec in manifest.signature.outputs]
        given = program.graph_signature.user_inputs
        self._order = [given.index(spec.name) for spec in manifest.signature.inputs if spec.name in given]
        self._module = program.module(check_guards=False).to(device)
        self._device = device
        self.inputs = tuple(_slot(program, name) for name in given)
        self.outputs = tuple(_slot(program, name) for name in self._names)
        self.memory_bytes = 2 * size_bytes

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Infer."""
        placed = [
            torch.from_numpy(array if array.flags.writeable else array.copy()).to(self._device) for array in inputs
        ]
        ordered = [tensor for _, tensor in sorted(zip(self._order, placed, strict=True), key=lambda pair: pair[0])]
        with torch.inference_mode():
            said = self._module(*ordered)
        found = dict(zip(self._names, _flat(said), strict=True))
        return [np.ascontiguousarray(found[name].cpu().numpy()) for name in self._wanted]

    def close(self) -> None:
        """Let go of the program."""
        self._module = None


class TorchRuntime:
    """Loads ``model.pt2``."""

    platform = "pytorch_export"
    model_file = _FILE
    runs_at_once = False

    def load(self, folder: Path, manifest: Manifest, grant: Grant) -> LoadedModel:
        """Screen, then load."""
        if grant.gpus and not torch.cuda.is_available():
            raise refused(
                "its replica has a GPU, and the installed torch cannot use it",
                "Install a CUDA build of torch where replicas run, or deploy without a GPU.",
            )
        torch.set_num_threads(grant.threads)
        content = (folder / _FILE).read_bytes()
        return TorchModel(manifest, _loaded(content), "cuda" if grant.gpus else "cpu", len(content))

    def signature(self, path: Path) -> Signature:
        """What the program declares; its names are those of ``forward``'s arguments and of the graph's results."""
        program = _loaded(path.read_bytes())
        names = program.graph_signature
        return Signature(
            inputs=tuple(_spec(program, name) for name in names.user_inputs),
            outputs=tuple(_spec(program, name) for name in names.user_outputs),
        )


def _loaded(content: bytes) -> Any:
    try:
        safe = io.BytesIO(screened(content))
    except ArchiveUnsafe as error:
        raise refused(
            f"{_FILE} {error}", "Export it with torch.export.save, of tensors and ATen operators only."
        ) from error
    _add_no_samples(safe)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own formats
            return torch.export.load(safe)
    except Exception as error:  # whatever torch raises ends here
        raise refused(f"{_FILE} cannot be loaded by torch {torch.__version__}", "Export it with this torch.") from error


def _add_no_samples(archive: io.BytesIO) -> None:
    """The loader wants sample inputs, by a pickle; it gets one of ours, without any."""
    nothing = io.BytesIO()
    torch.save(((), {}), nothing)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as made:
        made.writestr(f"program/{_NO_SAMPLES}", nothing.getvalue())
    archive.seek(0)


def _value(program: Any, name: str) -> Any:
    """The tensor that the graph says a name stands for."""
    for node in program.graph.nodes:
        if node.name == name:
            return node.meta.get("val")
    return None


def _slot(program: Any, name: str) -> Slot:
    value = _value(program, name)
    if not isinstance(value, torch.Tensor):
        return Slot(str(name), "no tensor", None)
    return Slot(name, _DATATYPES.get(value.dtype, str(value.dtype)), value.ndim)


def _spec(program: Any, name: str) -> TensorSpec:
    value = _value(program, name)
    datatype = _DATATYPES.get(value.dtype) if isinstance(value, torch.Tensor) else None
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in value.shape) if datatype else ()
    if datatype is None or not shape or shape[0] != -1:
        raise refused(
            f"{name} is no tensor of numbers with a free batch",
            'Export with dynamic_shapes=({0: torch.export.Dim("batch")},).',
        )
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def _flat(said: Any) -> list[Any]:
    if isinstance(said, torch.Tensor):
        return [said]
    return [tensor for part in (said.values() if isinstance(said, dict) else said) for tensor in _flat(part)]


RUNTIME = TorchRuntime()
