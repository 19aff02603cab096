"""Engines that run models, one adapter each, behind one seam (`runtimes.seam`). The data plane knows the seam alone.

An adapter is imported when a bundle asks for it: nobody pays for an engine that is not used.
"""

from importlib import import_module

from skyloom.inference.runtimes.seam import Runtime, refused
from skyloom.rooms.registry.bundle import RuntimeName

_ADAPTERS = {
    RuntimeName.ONNX: "skyloom.inference.runtimes.onnx",
    RuntimeName.LITERT: "skyloom.inference.runtimes.litert",
    RuntimeName.TORCH: "skyloom.inference.runtimes.torch_program",
    RuntimeName.GRAPH: "skyloom.inference.runtimes.graph",
}

_EXTRAS = {RuntimeName.LITERT: "litert", RuntimeName.TORCH: "train"}


def find(name: RuntimeName) -> Runtime:
    """The adapter of a runtime. Raises `BundleRefused` when it is not installed here."""
    module = _ADAPTERS.get(name)
    if module is None:
        raise refused(f"a {name.value} bundle has no model file to load", "Deploy it with skyloom deploy.")
    try:
        adapter: Runtime = import_module(module).RUNTIME
    except ImportError as error:
        raise refused(
            f"it needs the runtime {name.value}, whose library {error.name} is not installed here",
            f"Install it where replicas run: pip install 'skyloom[{_EXTRAS.get(name, 'local')}]'.",
        ) from error
    return adapter
