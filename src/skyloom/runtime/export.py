"""Export to ONNX with a free batch size, and proof that the exported model says the same as torch on real rows."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from skyloom.core.errors import InvalidInput
from skyloom.rooms.registry.bundle import Datatype, ImageInput, ImageLayout, TensorSpec
from skyloom.rooms.registry.model import Parity

Array = NDArray[Any]
BATCH_SIZES = (1, 2, 7, 64)
TOLERANCE = 1e-4

_DATATYPES = {
    "bool": Datatype.BOOL,
    "uint8": Datatype.UINT8,
    "uint16": Datatype.UINT16,
    "uint32": Datatype.UINT32,
    "uint64": Datatype.UINT64,
    "int8": Datatype.INT8,
    "int16": Datatype.INT16,
    "int32": Datatype.INT32,
    "int64": Datatype.INT64,
    "float16": Datatype.FP16,
    "float32": Datatype.FP32,
    "float64": Datatype.FP64,
}


class ExportFailed(InvalidInput):
    """The network cannot be written as ONNX."""


class ParityFailed(InvalidInput):
    """The exported model says something else than the trained one."""


def export_onnx(model: torch.nn.Module, examples: Mapping[str, Array], outputs: Sequence[str], path: Path) -> None:
    """Write a network to a file; the first axis of every input and output is the batch and stays free.

    Args:
        examples: input name → at least one real row, in the order of ``forward``'s arguments.
        outputs: names for what ``forward`` returns.

    Raises `ExportFailed`.
    """
    model.eval()
    batch = torch.export.Dim("batch")
    # Two rows: a size of 1 would be taken for a constant.
    arguments = tuple(torch.from_numpy(repeated(rows, 2)) for rows in examples.values())
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                arguments,
                dynamo=True,
                input_names=list(examples),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: batch} for _ in examples),
                verbose=False,
            )
            program.save(str(path))
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ExportFailed(
            f"The network cannot be exported to ONNX: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
            next_action="Let forward() work for every batch size, with tensor operations only.",
        ) from error


def check_parity(model: torch.nn.Module, examples: Mapping[str, Array], path: Path) -> Parity:
    """Compare the file with the network on real rows, in batches of 1, 2, 7 and 64. Raises `ParityFailed`."""
    session = _session(path)
    worst = 0.0
    for size in BATCH_SIZES:
        batch = {name: repeated(rows, size) for name, rows in examples.items()}
        exported = session.run(None, batch)
        for ours, theirs in zip(_predict(model, batch), exported, strict=True):
            worst = max(worst, _difference(ours, theirs, size))
    if worst > TOLERANCE:
        raise ParityFailed(
            f"The exported model differs from the trained one by {worst:.2g}; allowed is {TOLERANCE:g}.",
            next_action="Look for dropout, random numbers or batch statistics that are active in eval mode.",
        )
    return Parity(batch_sizes=BATCH_SIZES, largest_difference=worst, tolerance=TOLERANCE)


def specs(arrays: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Describe tensors by some rows of each."""
    return tuple(
        TensorSpec(name=name, datatype=_DATATYPES[rows.dtype.name], shape=(-1, *rows.shape[1:]))
        for name, rows in arrays.items()
    )


def image_input(name: str, shape: Sequence[int]) -> ImageInput:
    """How pictures become an input of raw pixels: of this shape, without the batch. Raises `ExportFailed`: no picture has that shape."""
    if len(shape) == 2:
        return ImageInput(tensor=name, layout=ImageLayout.GREY)
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return ImageInput(tensor=name, layout=ImageLayout.CHANNELS_FIRST)
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        return ImageInput(tensor=name, layout=ImageLayout.CHANNELS_LAST)
    raise ExportFailed(
        f"Pictures cannot be put into the shape {list(shape)}.",
        next_action="Use [height, width] with 1, 3 or 4 channels.",
    )


def predict(path: Path, inputs: Mapping[str, Array], outputs: Sequence[str], batch_rows: int = 256) -> dict[str, Array]:
    """What the exported model says about many rows."""
    session = _session(path)
    num_rows = len(next(iter(inputs.values())))
    parts = [
        session.run(list(outputs), {name: rows[at : at + batch_rows] for name, rows in inputs.items()})
        for at in range(0, num_rows, batch_rows)
    ]
    return {name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(outputs)}


def repeated(rows: Array, size: int) -> Array:
    """``size`` rows; they start over when there are fewer."""
    return np.ascontiguousarray(rows[np.arange(size) % len(rows)])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own old ways and of libraries that nobody asked for; neither concerns the user."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _predict(model: torch.nn.Module, batch: Mapping[str, Array]) -> tuple[Array, ...]:
    with torch.inference_mode():
        said = model(*(torch.from_numpy(rows) for rows in batch.values()))
    return tuple(tensor.numpy() for tensor in (said if isinstance(said, tuple) else (said,)))


def _difference(ours: Array, theirs: Array, size: int) -> float:
    if ours.shape != theirs.shape or len(theirs) != size:
        raise ParityFailed(
            f"For {size} rows the exported model answers the shape {theirs.shape}, torch {ours.shape}.",
            next_action="Let forward() keep the batch as the first axis of every output.",
        )
    if not np.isfinite(theirs).all():
        return float("inf")
    return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(ours))).max(initial=0.0))
