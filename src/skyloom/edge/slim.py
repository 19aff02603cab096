"""What installed packages hold that a device never loads: tests, tools, and a second copy of ONNX Runtime for other languages.

For images of devices, where 50 MB count. ``pip install --force-reinstall`` brings everything back.
"""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

_NEVER_LOADED = {
    "numpy": ("**/tests", "f2py", "_pyinstaller", "**/*.pyi", "random/lib", "_core/lib", "_core/include"),
    "onnxruntime": (
        "capi/libonnxruntime.so.*",  # for C programs; Python's module holds all of it itself
        "transformers",
        "quantization",
        "tools",
        "datasets",
        "ThirdPartyNotices.txt",
    ),
}


def unused() -> Iterator[Path]:
    """Files and folders that the edge process never loads."""
    for package, patterns in _NEVER_LOADED.items():
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            for pattern in patterns:
                yield from sorted(Path(folder).glob(pattern))


def slim(*, really: bool) -> str:
    """Delete what is unused, or only say what would be; returns it in words."""
    size = 0
    lines = []
    for path in unused():
        if not path.exists():
            continue  # it lay in a folder that is gone already
        here = _size(path)
        size += here
        if here > 2**20:
            lines.append(f"{here / 1e6:7.1f} MB  {path.parent.name}/{path.name}")
        if really:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    word = "freed" if really else "can be freed: skyloom edge slim --yes"
    return "\n".join([*lines, f"{size / 1e6:7.1f} MB  {word}"])


def _size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )
