"""A model bundle: a folder of digest-pinned files that the runtime it names can serve. Never a pickle.

manifest.json    this module's `Manifest`
model.onnx       the network, first axis of every input and output is the batch; other runtimes have a file of their own
profile.json     what inputs and predictions looked like in training (`rooms.monitoring.model.Profile`)
encoding.json    of tabular models: how texts become numbers (a tuple of `FeatureColumn`)
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Digest, RelativePath, ShortText
from skyloom.rooms.registry.services import ServiceSpec

MODEL_FILE = "model.onnx"
PROFILE_FILE = "profile.json"
MANIFEST_FILE = "manifest.json"
ENCODING_FILE = "encoding.json"


class Datatype(enum.StrEnum):
    """Element types, by their names in the Open Inference Protocol v2. BYTES are strings: of text, where the runtime is ONNX."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output. ``shape`` starts with -1, the batch; other -1 axes are free too."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    datatype: Datatype
    shape: Annotated[tuple[Annotated[int, Meta(ge=-1, le=2**40)], ...], Meta(min_length=1, max_length=8)]


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes and gives. Only services and language models may have none of either: then they speak no tensors."""

    inputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=64)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=64)]


class ModelKind(enum.StrEnum):
    """What the first output means."""

    CLASSIFICATION = "classification"  # scores per class, shape [batch, classes]
    REGRESSION = "regression"  # one number, shape [batch, 1]
    OTHER = "other"


class ImageLayout(enum.StrEnum):
    """How the pixels of one image lie in a tensor, the batch left out."""

    GREY = "HW"
    CHANNELS_FIRST = "CHW"
    CHANNELS_LAST = "HWC"


class ImageFit(enum.StrEnum):
    """How a picture of another size becomes one of the model's."""

    STRETCH = "stretch"
    CROP = "crop"  # shrunk or grown until it covers the model's size, then the middle of it


_Channels = Annotated[tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...], Meta(max_length=4)]


class ImageInput(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture becomes an input: ``(pixel * scale - mean) / deviation``, pixels from 0 to 255, each channel by itself.

    Height, width and the number of channels (1 grey, 3 RGB, 4 RGBA) are those of the signature.

    Attributes:
        tensor: the input's name.
        mean, deviation: one number a channel, or one for all; none for 0 and 1.
    """

    tensor: Annotated[str, Meta(min_length=1, max_length=200)]
    layout: ImageLayout
    fit: ImageFit = ImageFit.STRETCH
    scale: Annotated[float, Meta(ge=-1e6, le=1e6)] = 1.0
    mean: _Channels = ()
    deviation: _Channels = ()


class FeatureColumn(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a tabular model. ``values`` are the known texts of a text column, in order; empty for numbers."""

    name: Annotated[str, Meta(max_length=400)]
    values: tuple[str, ...] = ()


class BundleFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a bundle."""

    path: RelativePath
    digest: Digest
    size_bytes: Annotated[int, Meta(ge=0, le=2**40)]


class RuntimeName(enum.StrEnum):
    """What runs a bundle's model."""

    ONNX = "onnx"
    LITERT = "litert"  # .tflite
    TORCH = "torch"  # a program of torch.export, .pt2
    GGUF = "gguf"  # a language model for llama.cpp
    GRAPH = "graph"  # registered models that feed each other
    SERVICE = "service"  # your own Python, in a process of its own


MODEL_FILES = {
    RuntimeName.ONNX: MODEL_FILE,
    RuntimeName.LITERT: "model.tflite",
    RuntimeName.TORCH: "model.pt2",
    RuntimeName.GGUF: "model.gguf",
    RuntimeName.GRAPH: "graph.json",
}
# They take and give text, and no tensors.
TEXTUAL = frozenset({RuntimeName.GGUF})


class TextLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a language model may use of its machine.

    Attributes:
        context_tokens: that all requests which run together may have, prompts included; 0 for what it was trained for, at most 8,192.
        num_at_once: requests that run together.
    """

    context_tokens: Annotated[int, Meta(ge=0, le=2**22)] = 0
    num_at_once: Annotated[int, Meta(ge=1, le=64)] = 4


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds.

    Attributes:
        runtime: what can run it; bundles that do not say are ONNX.
        labels: class names in the order of the scores; empty for other kinds.
        service: your own Python, where that is the runtime.
        columns: for tabular models, what each position of the input row means; texts are positions in ``encoding.json``.
        image: how pictures become one of its inputs, where it takes pictures.
        text: of a language model.
    """

    format: Annotated[int, Meta(ge=1, le=1_000)] = 1
    runtime: RuntimeName = RuntimeName.ONNX
    kind: ModelKind = ModelKind.OTHER
    signature: Signature
    files: Annotated[tuple[BundleFile, ...], Meta(min_length=1, max_length=200)]
    labels: Annotated[tuple[ShortText, ...], Meta(max_length=100_000)] = ()
    columns: Annotated[tuple[ShortText, ...], Meta(max_length=10_000)] = ()
    service: ServiceSpec | None = None
    image: ImageInput | None = None
    text: TextLimits | None = None

    @property
    def is_tabular(self) -> bool:
        """The model's one input is a row of named columns."""
        inputs = self.signature.inputs
        return len(inputs) == 1 and len(inputs[0].shape) == 2 and 0 < len(self.columns) == inputs[0].shape[1]
