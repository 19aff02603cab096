"""Skyloom: an AI cloud in one package. ``import skyloom; cloud = skyloom.connect()``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from skyloom.core.errors import SkyloomError
    from skyloom.core.events import TriggerEvent
    from skyloom.sdk.client import Client
    from skyloom.sdk.connect import connect
    from skyloom.sdk.function import function
    from skyloom.sdk.service import Service, Tensor, endpoint

# The public promise, frozen by a test. Loaded at first use, so that `skyloom --help` imports nothing of it.
_HOMES = {
    "Client": "skyloom.sdk.client",
    "SkyloomError": "skyloom.core.errors",
    "connect": "skyloom.sdk.connect",
    "Service": "skyloom.sdk.service",
    "Tensor": "skyloom.sdk.service",
    "TriggerEvent": "skyloom.core.events",
    "endpoint": "skyloom.sdk.service",
    "function": "skyloom.sdk.function",
}
__all__ = [
    "Client",
    "Service",
    "SkyloomError",
    "Tensor",
    "TriggerEvent",
    "__version__",
    "connect",
    "endpoint",
    "function",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skyloom' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
