"""What the model server needs beside Python, pinned to what is installed here, where the model was served."""

import importlib.metadata
import re
import sys
from collections.abc import Callable, Sequence

from skyloom.core.errors import Unavailable
from skyloom.rooms.registry.bundle import RuntimeName

# What `skyloom.inference` imports. A test starts the server with these alone on its path.
SERVER = (
    "msgspec",
    "httpx",
    "uvloop",
    "httptools",
    "prometheus-client",
    "numpy",
    "onnxruntime",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "hpack",
    "protobuf",
    "pillow",
)
RUNTIMES = {
    RuntimeName.LITERT: ("ai-edge-litert",),
    RuntimeName.TORCH: ("torch",),
    RuntimeName.GGUF: ("llama-cpp-python", "jinja2"),
}
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"\bextra\s*==")
Installed = Callable[[str], importlib.metadata.Distribution]


class PackageMissing(Unavailable):
    """A package that the model server needs is not installed here, so it cannot be pinned."""


def of_runtime(name: RuntimeName) -> tuple[str, ...]:
    """What a server needs that runs such models, pinned. Raises `PackageMissing`."""
    return pinned((*SERVER, *RUNTIMES.get(name, ())))


def pinned(roots: Sequence[str] = SERVER, installed: Installed = importlib.metadata.distribution) -> tuple[str, ...]:
    """``name==version`` of packages and all that they need here, sorted. Raises `PackageMissing`."""
    found: dict[str, str] = {}
    waiting = [(name, True) for name in roots]
    while waiting:
        name, is_needed = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            package = installed(name)
        except importlib.metadata.PackageNotFoundError:
            if is_needed:
                raise PackageMissing(
                    f"{name} is not installed here.", next_action="Install it: pip install 'skyloom[local]'."
                ) from None
            continue  # for another system or Python
        found[key] = package.version.partition("+")[0]  # what follows a plus is known to this machine's index only
        needs = [need for need in package.requires or () if not _EXTRA.search(need)]
        waiting += [(match[0], False) for need in needs if (match := _NAME.match(need))]
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def python_version() -> str:
    """Of this machine, as images name it."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"
