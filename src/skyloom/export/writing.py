"""From an export to a folder of the user's. Nothing that is there is overwritten; a new folder is there whole or not at all."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import yaml

import skyloom
from skyloom.core import digests
from skyloom.core.errors import AlreadyExists, InternalError, InvalidInput
from skyloom.durable import disk_errors
from skyloom.export import clusters, hosts, images, parts
from skyloom.export.model import ACCESS_FILE, PLAN_FILE, Exported, Target
from skyloom.manifest.pods import Document

Fetch = Callable[[str], Iterable[bytes]]  # the bytes of a digest


class ExportThere(AlreadyExists):
    """The folder of an export is there already, and something is in it."""


class ExportFolderRefused(InvalidInput):
    """No folder can be made there."""


class BundleChanged(InternalError):
    """A file of the bundle is not what its digest says."""


def files(exported: Exported, target: Target) -> dict[str, str | bytes]:
    """All files of an export but the bundle's and the server's own code: path → content."""
    start, special = _TARGETS[target](exported)
    return {
        PLAN_FILE: parts.plan(exported),
        ACCESS_FILE: parts.no_tokens(),
        "requirements.txt": parts.requirements(exported),
        **parts.packages(exported),
        "README.md": parts.page(exported, target, start),
        **special,
    }


def write(exported: Exported, target: Target, folder: Path, fetch: Fetch) -> list[Path]:
    """Write everything; returns the paths. Into an empty folder that is there already, the README.md comes last.

    Raises `ExportThere`, `ExportFolderRefused`, `BundleChanged`, and what the disk refuses.
    """
    folder = folder.resolve()  # "." has no name to make a draft beside it by
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportThere(f"{folder} is there already.", next_action="Choose another folder, or remove that one.")
    draft = folder.with_name(f".{folder.name}.draft")
    with disk_errors(folder):
        shutil.rmtree(draft, ignore_errors=True)
        _make(draft)
        try:
            for name, content in files(exported, target).items():
                _put(draft / name, [content.encode() if isinstance(content, str) else content])
            for name, digest in exported.files.items():
                _put(draft / "bundle" / name, fetch(digest))
                _check(draft / "bundle" / name, digest)
            for source in _code():
                _put(draft / "skyloom" / source.relative_to(_PACKAGE), [source.read_bytes()])
            for made in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
                made.chmod(0o755)  # as with files: an image keeps these bits, and its server is no root
            if folder.exists():  # it stays the same folder: somebody may stand in it
                for child in sorted(draft.iterdir(), key=lambda path: path.name == "README.md"):
                    child.rename(folder / child.name)
            else:
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _make(draft: Path) -> None:
    try:
        draft.mkdir(parents=True)
    except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        raise ExportFolderRefused(
            f"No folder can be made in {draft.parent}: {error.strerror}.", next_action="Choose another place: --out."
        ) from error


_PACKAGE = Path(skyloom.__file__).parent


def _code() -> list[Path]:
    """The package as it is installed here: the very code that served the model, and no name to be looked up anywhere."""
    return [path for path in sorted(_PACKAGE.rglob("*")) if path.is_file() and path.suffix in (".py", ".typed")]


def _put(path: Path, chunks: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
    path.chmod(0o644)  # a container reads it as another user


def _check(path: Path, digest: str) -> None:
    with path.open("rb") as file:
        if digests.of_chunks(iter(lambda: file.read(2**20), b"")) != digest:
            raise BundleChanged(f"{path.name} is not what its digest says.", next_action="Export it again.")


def _yaml(documents: Iterable[Document]) -> str:
    """Without anchors: what is repeated goes by JSON."""
    plain = [msgspec.json.decode(msgspec.json.encode(document)) for document in documents]
    return "---\n".join(yaml.safe_dump(document, sort_keys=False, width=120) for document in plain)


Special = tuple[str, Mapping[str, str | bytes]]


def _image(exported: Exported) -> dict[str, str | bytes]:
    return {"Dockerfile": images.dockerfile(exported), ".dockerignore": images.DOCKER_IGNORE}


def _docker(exported: Exported) -> Special:
    return images.start_docker(exported), _image(exported)


def _compose(exported: Exported) -> Special:
    return images.start_compose(exported), {
        **_image(exported),
        "compose.yaml": _yaml([images.compose(exported)]),
    }


def _kubernetes(exported: Exported) -> Special:
    file = "kubernetes.yaml"
    return clusters.start_kubernetes(exported, file), {**_image(exported), file: _yaml(clusters.kubernetes(exported))}


def _kserve(exported: Exported) -> Special:
    file = "kserve.yaml"
    return clusters.start_kubernetes(exported, file), {**_image(exported), file: _yaml(clusters.kserve(exported))}


def _lambda(exported: Exported) -> Special:
    return hosts.start_lambda(exported), {
        "Dockerfile": hosts.lambda_dockerfile(exported),
        "handler.py": hosts.lambda_handler(exported),
        "template.yaml": _yaml([hosts.lambda_template(exported)]),
    }


def _skypilot(exported: Exported) -> Special:
    return hosts.start_skypilot(exported), {"service.yaml": _yaml([hosts.skypilot(exported)])}


def _dstack(exported: Exported) -> Special:
    return hosts.start_dstack(exported), {"service.dstack.yml": _yaml([hosts.dstack(exported)])}


def _ray(exported: Exported) -> Special:
    return hosts.start_ray(exported), {"serve_app.py": hosts.ray_app(exported)}


_TARGETS: dict[Target, Callable[[Exported], Special]] = {
    Target.DOCKER: _docker,
    Target.COMPOSE: _compose,
    Target.KUBERNETES: _kubernetes,
    Target.KSERVE: _kserve,
    Target.LAMBDA: _lambda,
    Target.SKYPILOT: _skypilot,
    Target.DSTACK: _dstack,
    Target.RAY: _ray,
}
