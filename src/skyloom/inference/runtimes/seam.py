"""The seam between the data plane and the engines that run models. `tests/contracts/runtime_contract.py` is its suite."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from skyloom.core.errors import Category, InternalError, InvalidInput
from skyloom.inference.tensors import Array
from skyloom.rooms.registry.bundle import Datatype, Manifest, Signature


class BundleRefused(InvalidInput):
    """A bundle is incomplete, damaged, or not what its manifest says. Nothing of it is loaded."""


class ModelFailed(InternalError):
    """The model raised, or its answer is not what its signature promises."""


class InputsRefused(ModelFailed):
    """The model's own code does not take these values; the message is its own."""

    category = Category.INVALID


class ModelBusy(ModelFailed):
    """More waits for the model than it can take."""

    category = Category.LIMIT


class ModelAway(ModelFailed):
    """The model is being started again; nothing was begun."""

    category = Category.UNAVAILABLE


class Slot(NamedTuple):
    """An input or output as the model file itself declares it.

    Attributes:
        datatype: the engine's own word where the protocol has none; empty when the file does not say.
        rank: number of axes, the batch included; None when the file does not say.
    """

    name: str
    datatype: Datatype | str
    rank: int | None


class Grant(NamedTuple):
    """What a model may use of its machine.

    Attributes:
        threads: of one inference.
        gpus: 0 for none. An engine that cannot use a GPU that was given refuses; it never falls back to cores in silence.
    """

    threads: int
    gpus: int = 0


class LoadedModel(Protocol):
    """A model in memory. Used by one thread at a time.

    Attributes:
        inputs, outputs: as the file declares them, for the comparison with the bundle's signature.
        memory_bytes: an estimate of what it holds, weights above all; for packing several models into a replica.
    """

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    memory_bytes: int

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Infer. Inputs and outputs in the order of the manifest's signature. Any exception may leave it; the caller words it."""
        ...

    def close(self) -> None:
        """Let go of the model. Safe to repeat; `run` is not called any more."""
        ...


class Runtime(Protocol):
    """One engine.

    Attributes:
        platform: its name in the model metadata of the Open Inference Protocol.
        model_file: the file of a bundle that it loads.
        runs_at_once: `LoadedModel.run` may be called from several threads at the same time.
    """

    platform: str
    model_file: str
    runs_at_once: bool

    def signature(self, path: Path) -> Signature:
        """What a model file says that it takes and gives, for registering it. Loads it as carefully as `load` does. Raises
        `BundleRefused`, also where the file does not say enough or fixes its batch."""
        ...

    def load(self, folder: Path, manifest: Manifest, grant: Grant) -> LoadedModel:
        """Load the model of a bundle whose bytes were verified. Executes nothing that the file brings along (no pickle), reads no
        file outside of the bundle. Raises `BundleRefused`."""
        ...


def refused(reason: str, next_action: str) -> BundleRefused:
    """Say why a bundle is not loaded."""
    return BundleRefused(f"The model bundle is refused: {reason}.", next_action=next_action)
