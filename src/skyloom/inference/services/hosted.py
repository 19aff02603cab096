"""A model whose engine is not let into the data plane, as a service that nobody wrote: torch is large, and a crash of its is its own."""

from typing import Any, TypedDict

from skyloom.inference.model import Model
from skyloom.rooms.registry.bundle import Manifest, RuntimeName
from skyloom.rooms.registry.services import ServiceMethod, ServiceSpec
from skyloom.sdk.describing import EndpointMethod
from skyloom.sdk.service import Endpointed, Service

PLATFORM = "pytorch_export"
_METHOD = "infer"


class HostedModel(Service):
    """One loaded model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._inputs = [spec.name for spec in model.manifest.signature.inputs]
        self._outputs = [spec.name for spec in model.manifest.signature.outputs]

    def infer(self, **arrays: Any) -> dict[str, Any]:
        """Arrays in, arrays out, by the names of the signature. Raises `ModelFailed`."""
        said = self._model.run([arrays[name] for name in self._inputs])
        return dict(zip(self._outputs, said, strict=True))

    def methods(self) -> list[EndpointMethod]:
        """Its only endpoint; no class could say the names of its tensors."""
        returns = TypedDict("returns", dict.fromkeys(self._outputs, Any))  # type: ignore[misc]
        return [EndpointMethod(_METHOD, type(self).infer, Endpointed(), (), returns, False, False)]


def is_hosted(manifest: Manifest) -> bool:
    """True for bundles whose model runs in a process of its own."""
    return manifest.runtime is RuntimeName.TORCH


def hosted_spec(timeout_s: float) -> ServiceSpec:
    """What the data plane knows of a hosted model: one endpoint, of tensors alone."""
    # Waiting is the batcher's business; the process is asked when its turn has come.
    method = ServiceMethod(name=_METHOD, timeout_s=min(max(10 * timeout_s, 60.0), 3_600.0))
    return ServiceSpec(entry="model", class_name="HostedModel", methods=(method,), tensors=_METHOD)
