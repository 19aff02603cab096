"""A service's source on its way into a bundle: the file, the modules beside it that it imports, and what else it names.

The file is imported here, to read the types of its endpoints. What only the service's own environment has is imported in `setup`.
"""

import ast
import importlib.util
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from skyloom.core import digests
from skyloom.core.errors import InvalidInput, NotFound
from skyloom.rooms.registry.bundle import (
    MANIFEST_FILE,
    BundleFile,
    Manifest,
    RuntimeName,
)
from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.registry.services import SOURCE_FOLDER
from skyloom.sdk.describing import describe
from skyloom.sdk.environment import Requirements, RequirementsUnreadable, python_environment
from skyloom.sdk.files import read_chunks
from skyloom.sdk.graph import order_of
from skyloom.sdk.plain import CLASS_NAME, functions_of, service_class
from skyloom.sdk.service import DecoratedFunction, Service

_MODELS_FOLDER = "models"
_FUNCTIONS_FILE = "skyloom_functions.py"
_INLINE = re.compile(r"(?m)^# /// script[ \t]*$\n((?:^#(?: .*)?$\n)+?)^# ///[ \t]*$")


class ServiceNotFound(NotFound):
    """The file is not there, or holds no such service."""


class ServiceNotImportable(InvalidInput):
    """The file of a service raises when it is imported."""


class ServiceNotPackable(InvalidInput):
    """The service names a file or model that cannot be taken along."""


@dataclass(frozen=True)
class Packed:
    """A service as a bundle: its manifest, and where the bytes of its files are: a path here, or the bytes themselves.

    Files of registered models have neither: the cloud has them.
    """

    manifest: Manifest
    service: type[Service]
    contents: Mapping[str, Path | bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called unless somebody says otherwise: ``MyReviews`` is ``my-reviews``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", self.service.__name__).lower()[:80].strip("-_.")


def load_service(reference: str) -> tuple[type[Service], Path]:
    """The class that ``FILE.py:CLASS`` means, and its file; the class may be left out where the file has one service.

    Raises `ServiceNotFound`, `ServiceNotImportable`.
    """
    file, _, name = reference.partition(":")
    path = Path(file).absolute()
    if not path.is_file():
        raise ServiceNotFound(f"There is no file {file}.", next_action="Name it as FILE.py:CLASS.")
    module = _import(path)
    found = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Service) and value.__module__ == module.__name__
    }
    if not name and len(found) == 1:
        name = next(iter(found))
    if name not in found:
        which = f"no service {name!r}" if name else "several services" if found else "no service"
        raise ServiceNotFound(
            f"{file} has {which}.",
            next_action=f"Name one: {', '.join(f'{file}:{one}' for one in sorted(found))}."
            if found
            else "Write: class Sentiment(skyloom.Service).",
        )
    return found[name], path


def pack(what: str | type[Service], models: Mapping[str, ModelVersion] | None = None) -> Packed:
    """Describe a service and gather its files.

    Args:
        what: ``FILE.py:CLASS``, or the class.
        models: the registered versions that the class names in ``models``.

    Raises `ServiceNotFound`, `ServiceNotImportable`, `ServiceInvalid`, `ServiceNotPackable`.
    """
    service, path = load_service(what) if isinstance(what, str) else (what, Path(inspect.getfile(what)))
    spec, signature = describe(service, f"{SOURCE_FOLDER}/{path.name}")
    contents: dict[str, Path | bytes] = {
        f"{SOURCE_FOLDER}/{name}": place for name, place in sorted(_sources(service, path).items())
    }
    files = [_listed(name, content) for name, content in contents.items()]
    places = {}
    for name, version in (models or {}).items():
        places[name] = f"{_MODELS_FOLDER}/{name}"
        files += _nested(name, version, contents)
    order_of({name: version.manifest.signature for name, version in (models or {}).items()}, service.edges)
    requirements = service.requirements
    python = python_environment(path.parent / requirements if isinstance(requirements, str) else requirements or None)
    spec = msgspec.structs.replace(spec, python=python, models=places)
    manifest = Manifest(runtime=RuntimeName.SERVICE, signature=signature, files=tuple(files), service=spec)
    return Packed(manifest, service, contents)


def pack_functions(
    file: str | Path,
    names: Sequence[str] = (),
    *,
    requirements: Requirements = None,
    timeout_s: float | None = None,
    concurrency: int | None = None,
) -> Packed:
    """Plain functions of a file as the bundle of a service that nobody wrote.

    Args:
        names: which; else those that are decorated, or the only one.
        requirements: packages beside those of the pool; else what the functions' decorators say, or the file's inline metadata (PEP 723).
        timeout_s, concurrency: for each of them, before what it is decorated with.

    Raises `ServiceNotFound`, `ServiceNotImportable`, `ServiceInvalid`, `FunctionNotFound`, `FunctionsUnclear`, `RequirementsUnreadable`.
    """
    path = Path(file).absolute()
    if not path.is_file() or path.suffix != ".py":
        raise ServiceNotFound(f"There is no Python file {file}.", next_action="Name it as FILE.py[:FUNCTION,…].")
    if path.stem in sys.stdlib_module_names or path.stem == "skyloom":
        raise ServiceNotImportable(
            f"{path.name} has the name of a module that Python or Skyloom has.", next_action="Rename the file."
        )
    module = _import(path)
    found = functions_of(module, names)
    options = {name: value for name, value in (("timeout_s", timeout_s), ("concurrency", concurrency)) if value}
    service = service_class(module, found, options)
    spec, signature = describe(service, f"{SOURCE_FOLDER}/{_FUNCTIONS_FILE}")
    contents: dict[str, Path | bytes] = {
        f"{SOURCE_FOLDER}/{name}": place for name, place in sorted(_sources(service, path).items())
    }
    contents[f"{SOURCE_FOLDER}/{_FUNCTIONS_FILE}"] = _begin(path.stem, tuple(found), options)
    asked = requirements if requirements is not None else _decorated(found, path) or inline_requirements(path) or None
    spec = msgspec.structs.replace(spec, python=python_environment(asked))
    files = tuple(_listed(name, content) for name, content in contents.items())
    manifest = Manifest(runtime=RuntimeName.SERVICE, signature=signature, files=files, service=spec)
    return Packed(manifest, service, contents)


def _decorated(found: Mapping[str, Any], path: Path) -> Path | list[str]:
    """The packages that the functions' decorators ask for: a file beside theirs, or all that they list."""
    asked = [one.options.get("requirements") or () for one in found.values() if isinstance(one, DecoratedFunction)]
    file = next((one for one in asked if isinstance(one, str | Path)), None)
    return path.parent / file if file else [package for packages in asked for package in packages]


def inline_requirements(path: Path) -> list[str]:
    """The packages that a file's inline metadata names (PEP 723). Raises `RequirementsUnreadable`."""
    blocks = _INLINE.findall(path.read_text())
    if len(blocks) > 1:
        raise RequirementsUnreadable(f"{path.name} has two blocks '# /// script'.", next_action="Keep one.")
    text = "".join(
        line[2:] if line.startswith("# ") else line[1:] for line in "".join(blocks).splitlines(keepends=True)
    )
    try:
        asked = tomllib.loads(text).get("dependencies", [])
        return msgspec.convert(asked, list[str])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RequirementsUnreadable(
            f"The inline metadata of {path.name} cannot be read: {error}.",
            next_action='Write: # dependencies = ["httpx"]',
        ) from error


def _begin(stem: str, names: tuple[str, ...], options: Mapping[str, float]) -> bytes:
    said = "".join(f", {name}={value!r}" for name, value in options.items())
    return (
        f'"""The functions of {stem}.py as a service."""\n\nfrom skyloom.sdk.plain import service_of\n\n'
        f"{CLASS_NAME} = service_of({stem!r}, {names!r}{said})\n"
    ).encode()


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ServiceNotFound(f"{path.name} is no Python file.", next_action="Name it as FILE.py:CLASS.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(path.stem, None)
        raise ServiceNotImportable(
            f"{path.name} cannot be imported here: {type(error).__name__}: {error}.",
            next_action="Mend it. What only the service's own environment has is imported in setup().",
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _sources(service: type[Service], path: Path) -> dict[str, Path]:
    """The service's file, modules below its folder that it imports, and the files it names: path beside it → path here."""
    folder = path.parent
    found = {path.name: path}
    waiting = [path]
    while waiting:
        for place in _imported(waiting.pop(), folder):
            name = place.relative_to(folder).as_posix()
            if name not in found:
                found[name] = place
                waiting.append(place)
    for pattern in service.files:
        places = sorted(folder.glob(pattern)) if "*" in pattern else [folder / pattern]
        for place in places or [folder / pattern]:
            _take(service, folder, place, found)
    return found


def _take(service: type[Service], folder: Path, place: Path, found: dict[str, Path]) -> None:
    if not place.is_file() or not place.resolve().is_relative_to(folder.resolve()):
        raise ServiceNotPackable(
            f"The service {service.__name__} names a file {place.name!r} that is not there.",
            next_action=f"Name plain files below {folder}.",
        )
    found[place.relative_to(folder).as_posix()] = place


def _imported(path: Path, folder: Path) -> Iterator[Path]:
    """Modules and whole packages below the folder that a file's import statements name."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise ServiceNotImportable(f"{path.name} is no Python: {error}.", next_action="Mend it.") from error
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if (folder / f"{top}.py").is_file():
                yield folder / f"{top}.py"
            elif (folder / top / "__init__.py").is_file():
                yield from sorted((folder / top).rglob("*.py"))


def _nested(name: str, version: ModelVersion, contents: dict[str, Path | bytes]) -> list[BundleFile]:
    if version.manifest.runtime is RuntimeName.SERVICE:
        raise ServiceNotPackable(
            f"{version.model} is a service, and cannot lie inside of another one.",
            next_action="Call its endpoint instead, or name a model.",
        )
    manifest = msgspec.json.encode(version.manifest)
    place = f"{_MODELS_FOLDER}/{name}/{MANIFEST_FILE}"
    contents[place] = manifest
    files = [
        BundleFile(path=f"{_MODELS_FOLDER}/{name}/{file.path}", digest=file.digest, size_bytes=file.size_bytes)
        for file in version.manifest.files
    ]
    return [*files, _listed(place, manifest)]


def _listed(name: str, content: Path | bytes) -> BundleFile:
    if isinstance(content, bytes):
        return BundleFile(path=name, digest=digests.of_bytes(content), size_bytes=len(content))
    digest = digests.of_chunks(read_chunks(content))
    return BundleFile(path=name, digest=digest, size_bytes=content.stat().st_size)
