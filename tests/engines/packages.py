"""A package index of a test's own: wheels made by hand, and one source package whose build waits for the test's word."""

import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

_BACKEND = """
import os, pathlib, time, zipfile

PLACE = pathlib.Path({place!r})

def build_wheel(folder, settings=None, metadata=None):
    with open(PLACE / "builds", "a") as file:
        file.write("built by %d\\n" % os.getpid())
    while not (PLACE / "go").exists():
        time.sleep(0.02)
    name = "{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in {files!r}.items():
            wheel.writestr(path, text)
    return name
"""


def offline(links: Path, cache: Path) -> dict[str, str]:
    """Variables that let uv see these packages and no others."""
    return {"UV_FIND_LINKS": str(links), "UV_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_CACHE_DIR": str(cache)}


def wheel(links: Path, name: str, version: str = "1.0", needs: tuple[str, ...] = ()) -> None:
    """Make a wheel of one module that says its version, with a command of the same name."""
    links.mkdir(exist_ok=True)
    with zipfile.ZipFile(links / f"{name}-{version}-py3-none-any.whl", "w") as made:
        for path, text in _files(name, version, needs).items():
            made.writestr(path, text)


def slow_source(links: Path, name: str) -> tuple[Path, Path]:
    """Make a source package; returns the file that tells its builds, and the one that lets them end."""
    links.mkdir(exist_ok=True)
    place = links.parent / f"{name}-gate"
    place.mkdir()
    backend = _BACKEND.format(place=str(place), name=name, files=_files(name, "1.0", ()))
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    project = f'{system}[project]\nname = "{name}"\nversion = "1.0"\n'
    metadata = f"Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n"
    with tarfile.open(links / f"{name}-1.0.tar.gz", "w:gz") as archive:
        for path, text in {"backend.py": backend, "pyproject.toml": project, "PKG-INFO": metadata}.items():
            member = tarfile.TarInfo(f"{name}-1.0/{path}")
            member.size = len(text.encode())
            archive.addfile(member, BytesIO(text.encode()))
    return place / "builds", place / "go"


def _files(name: str, version: str, needs: tuple[str, ...]) -> dict[str, str]:
    about = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    return {
        f"{name}.py": f"VERSION = {version!r}\ndef main():\n    print('{name} speaks')\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
        f"{about}/RECORD": "",
    }
