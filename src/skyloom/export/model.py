"""Nouns of an export: what is taken along, and where to."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Digest, Name, RelativePath
from skyloom.core.resources import Resources
from skyloom.ports.environment import MAX_REQUIREMENTS_CHARACTERS

REST_PORT, GRPC_PORT = 8080, 8081
FOLDER = "/app"  # of an image
PLAN_FILE, ACCESS_FILE = "plan.json", "access/access.json"
SERVICE_REQUIREMENTS = "requirements-service.txt"
USER = 1000


class Target(enum.StrEnum):
    """What an export is for."""

    DOCKER = "docker"
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    KSERVE = "kserve"
    LAMBDA = "lambda"
    SKYPILOT = "skypilot"
    DSTACK = "dstack"
    RAY = "ray"


# The platform's own process asks the model: no server of ours listens.
IN_PROCESS = frozenset({Target.LAMBDA, Target.RAY})

ImageName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9._/:-]*[a-z0-9])?(@sha256:[0-9a-f]{64})?$(?!\n)",
        max_length=400,
        description="REGISTRY/NAME:TAG",
    ),
]


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of an endpoint, on its way out.

    Attributes:
        name: of the endpoint; what the objects of a cluster are called follows from it (`label`).
        revision: number, for people.
        model, version: the names that the server answers to.
        files: the bundle: path → digest, its manifest included; ``manifest`` is the manifest's digest.
        image: what the image will be called.
        resources: of one replica.
        min_replicas, max_replicas: where the target scales by itself.
        python: version of Python, as images name it: ``3.11``.
        requirements: of the server, pinned, as pip reads them.
        methods: the endpoints of a service of your own Python; empty for a model.
        packages: what such a service asked for: the text of its ``requirements.txt``.
        secrets: names of what its code was given as secrets, which stay behind.
        example: a row as JSON, for the page; empty where none is known or it is too much to type.
    """

    name: Name
    revision: Annotated[int, Meta(ge=1)]
    model: Name
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,80}$(?!\n)")]
    files: Annotated[dict[RelativePath, Digest], Meta(max_length=1_000)]
    manifest: Digest
    image: ImageName
    resources: Resources
    min_replicas: Annotated[int, Meta(ge=1, le=1_000)] = 1
    max_replicas: Annotated[int, Meta(ge=1, le=1_000)] = 4
    python: Annotated[str, Meta(pattern=r"^3\.[0-9]{1,2}$(?!\n)")]
    requirements: Annotated[tuple[str, ...], Meta(max_length=200)]
    methods: Annotated[tuple[Annotated[str, Meta(max_length=80)], ...], Meta(max_length=100)] = ()
    packages: Annotated[str, Meta(max_length=MAX_REQUIREMENTS_CHARACTERS)] = ""
    secrets: Annotated[tuple[Annotated[str, Meta(max_length=200)], ...], Meta(max_length=20)] = ()
    example: Annotated[str, Meta(max_length=20_000)] = ""

    @property
    def label(self) -> str:
        """The name as DNS takes it: a Service of Kubernetes begins with a letter (RFC 1035)."""
        name = "".join(sign if sign.isalnum() else "-" for sign in self.name)[:50].strip("-")
        return name if name[0].isalpha() else f"m-{name}"

    @property
    def requirement_files(self) -> tuple[str, ...]:
        """What pip installs."""
        return ("requirements.txt", SERVICE_REQUIREMENTS) if self.methods else ("requirements.txt",)

    @property
    def cpus(self) -> float:
        """Cores of a replica; at least a tenth."""
        return max(self.resources.cpus, 0.1)
