"""``skyloom export``: files that serve an endpoint's model without Skyloom's control plane."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from skyloom.cli.frame import AsJson, Project, cloud, word
from skyloom.cli.render import show
from skyloom.core.errors import InvalidInput
from skyloom.export.building import build as build_image
from skyloom.export.model import IN_PROCESS, Exported, Target
from skyloom.export.requirements import of_runtime, python_version
from skyloom.export.writing import write
from skyloom.ports.environment import PythonEnvironment
from skyloom.rooms.registry.bundle import MANIFEST_FILE
from skyloom.rooms.registry.services import ServiceSpec
from skyloom.rooms.serving.model import EndpointStatus
from skyloom.sdk.examples import example_of

app = word("Files that serve an endpoint elsewhere, without this cloud.")
_BUILT = {Target.DOCKER, Target.COMPOSE, Target.KUBERNETES, Target.KSERVE, Target.LAMBDA}


class InvalidExport(InvalidInput):
    """The export that is asked for cannot be."""


class ExportedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and what to read next."""

    folder: str
    endpoint: str
    revision: int
    model: str
    num_files: int
    image: str = ""
    next: str = ""


@app.command()
def export(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name or id.")],
    to: Annotated[Target, typer.Option("--to", help="What it is to run on.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files; made, or empty.")],
    revision: Annotated[int, typer.Option("--revision", min=0, help="0 is the newest.")] = 0,
    image: Annotated[
        str, typer.Option("--image", metavar="REGISTRY/NAME:TAG", help="Of the image.  [default: NAME:REVISION]")
    ] = "",
    least: Annotated[int, typer.Option("--min", min=1, max=1_000, help="Replicas, where it scales.")] = 1,
    most: Annotated[int, typer.Option("--max", min=1, max=1_000, help="Replicas, where it scales.")] = 4,
    build: Annotated[bool, typer.Option("--build", help="Build the image here: buildah, podman or docker.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Write the model, its server, pinned packages and what the target needs; its README.md says how to start it and who may ask."""
    if build and to not in _BUILT:
        raise InvalidExport(f"{to.value} needs no image.", next_action="Leave --build out.")
    with cloud(project) as client:
        exported = chosen(client.endpoints.get(endpoint), revision, image, least, most)
        manifest = client.models.version(exported.model, exported.version).manifest
        example = None if manifest.service is not None else example_of(client.transport, manifest)
        exported = msgspec.structs.replace(
            exported,
            requirements=of_runtime(manifest.runtime),
            example="" if example is None else msgspec.json.encode(example).decode(),
        )
        if manifest.service is not None:
            exported = with_service(exported, manifest.service, to)
        written = write(exported, to, out, client.transport.download)
    tool = build_image(exported.image, out) if build else ""
    show(
        ExportedFiles(
            folder=str(out),
            endpoint=exported.name,
            revision=exported.revision,
            model=f"{exported.model} version {exported.version}",
            num_files=len(written),
            image=f"{exported.image} by {tool}" if tool else "",
            next=f"Read {out / 'README.md'}.",
        ),
        as_json,
    )


def with_service(exported: Exported, service: ServiceSpec, to: Target) -> Exported:
    """What a service of your own Python needs beside. Raises `InvalidExport`."""
    wanted = service.python or PythonEnvironment()
    if to in IN_PROCESS:
        raise InvalidExport(
            f"{exported.name} is a service with a process of its own, and {to.value} has room for one only.",
            next_action="Choose a target that runs the server: docker, compose, kubernetes, kserve, skypilot, dstack.",
        )
    if wanted.pyproject or wanted.isolated:
        raise InvalidExport(
            f"{exported.name} takes its packages from a pyproject.toml, or from an environment of its own.",
            next_action="Give the service a requirements.txt, deploy it, and export that.",
        )
    return msgspec.structs.replace(
        exported,
        methods=tuple(method.name for method in service.methods),
        packages=wanted.requirements,
        python=wanted.version or exported.python,
    )


def _as_variable(name: str) -> str:
    return name.upper().replace("-", "_")


def chosen(status: EndpointStatus, revision: int, image: str, least: int, most: int) -> Exported:
    """The revision that is meant. Raises `InvalidExport`."""
    endpoint = status.endpoint
    number = revision or endpoint.revision
    found = next((one for one in status.revisions if one.number == number), None)
    if found is None:
        known = ", ".join(str(one.number) for one in status.revisions)
        raise InvalidExport(f"{endpoint.name} has no revision {number} here.", next_action=f"The newest are: {known}.")
    if least > most:
        raise InvalidExport(
            f"At least {least} and at most {most} replicas.", next_action="Let --min be no more than --max."
        )
    wanted = {
        "name": endpoint.name,
        "revision": number,
        "model": found.model or endpoint.model,
        "version": found.version_label,
        "files": found.files,
        "manifest": found.files[MANIFEST_FILE],
        "image": image or f"{endpoint.name}:{number}",
        "resources": found.resources,
        "min_replicas": least,
        "max_replicas": most,
        "python": python_version(),
        "requirements": (),
        "secrets": tuple(use.variable or f"SKYLOOM_SECRET_{_as_variable(use.name)}_FILE" for use in found.secrets),
    }
    try:
        return msgspec.convert(wanted, Exported, from_attributes=True)
    except msgspec.ValidationError as error:
        raise InvalidExport(f"The export cannot be: {error}.", next_action="See: skyloom export --help.") from None
