"""ONNX Runtime: on cores, and on a GPU (TensorRT, CUDA) where one was given and the installed build can use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from skyloom.inference.runtimes.onnx_values import ONNX_TYPES, runner
from skyloom.inference.runtimes.seam import Grant, LoadedModel, Slot, refused
from skyloom.inference.tensors import Array
from skyloom.rooms.registry.bundle import MODEL_FILE, Manifest, Signature, TensorSpec

_CPU = "CPUExecutionProvider"
_ON_GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


class OnnxSession:
    """One graph in ONNX Runtime."""

    def __init__(self, manifest: Manifest, session: Any, size_bytes: int) -> None:
        self._run = runner(session, manifest.signature)
        self.inputs = _slots(session.get_inputs())
        self.outputs = _slots(session.get_outputs())
        self.memory_bytes = 2 * size_bytes  # weights, and what the graph's optimiser and arena keep beside them

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Infer."""
        return self._run(inputs)

    def close(self) -> None:
        """Let go of the graph."""
        self._run = _closed


class OnnxRuntime:
    """Loads ``model.onnx``."""

    platform = "onnxruntime_onnx"
    model_file = MODEL_FILE
    runs_at_once = True

    def load(self, folder: Path, manifest: Manifest, grant: Grant) -> LoadedModel:
        """Weights in files of their own are taken from the bundle's folder and from nowhere else."""
        session = _loaded((folder / MODEL_FILE).read_bytes(), folder, grant)
        return OnnxSession(manifest, session, sum(file.size_bytes for file in manifest.files))

    def signature(self, path: Path) -> Signature:
        """What the graph declares."""
        session = _loaded(path.read_bytes(), path.parent, Grant(1))
        return Signature(
            inputs=tuple(_spec(node) for node in session.get_inputs()),
            outputs=tuple(_spec(node) for node in session.get_outputs()),
        )


def _loaded(content: bytes, folder: Path, grant: Grant) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = grant.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Loaded from bytes, it would look for them in the working folder of whoever loads it.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.absolute()))
    # Spinning threads win microseconds for one replica and take the cores of all others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = choose_providers(grant.gpus, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # whatever ONNX Runtime raises ends here; its text may hold paths
        raise refused(f"{MODEL_FILE} cannot be loaded by ONNX Runtime", "Export the model again.") from error
    if grant.gpus and session.get_providers()[0] == _CPU:  # it was offered, and could not be started
        raise _no_gpu()
    return session


def _spec(node: Any) -> TensorSpec:
    """An axis without a number is free. The first one must be: it is the batch."""
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in node.shape)
    datatype = ONNX_TYPES.get(node.type)
    if datatype is None:
        raise refused(f"{node.name} is a {node.type}, which has no place in a signature", "Export it with numbers.")
    if not shape or shape[0] != -1:
        raise refused(
            f"{node.name} has the shape {list(shape)}, without a free batch", "Export it with a dynamic batch."
        )
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)


def choose_providers(gpus: int, available: Sequence[str]) -> list[str]:
    """What runs the graph, best first; what it cannot do is left to the cores. Raises `BundleRefused`: a GPU, and nothing for it."""
    if not gpus:
        return [_CPU]
    found = [name for name in _ON_GPU if name in available]
    if not found:
        raise _no_gpu()
    return [*found, _CPU]


def _no_gpu() -> Exception:
    return refused(
        "its replica has a GPU, and the installed ONNX Runtime cannot use it",
        "Install onnxruntime-gpu where replicas run, or deploy without a GPU.",
    )


def _slots(nodes: Sequence[Any]) -> tuple[Slot, ...]:
    return tuple(Slot(node.name, ONNX_TYPES.get(node.type, node.type), len(node.shape)) for node in nodes)


def _closed(*_: object) -> list[Array]:
    raise RuntimeError("the session is closed")


RUNTIME = OnnxRuntime()
