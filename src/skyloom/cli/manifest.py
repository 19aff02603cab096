"""``skyloom manifest``: the files that put Skyloom on a Kubernetes cluster of one's own."""

import secrets
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from skyloom.cli import values
from skyloom.cli.frame import AsJson, words
from skyloom.cli.render import show
from skyloom.core.errors import InvalidInput
from skyloom.core.resources import parse_bytes
from skyloom.manifest.model import SHARED_FOLDER, TOKEN_FOLDER, TOKEN_KEY, Installation, WorkerGroup
from skyloom.manifest.writing import write

app = words("Files that put Skyloom on ground of your own.")
_RAY_LEAVES = 0.65  # of a node's memory, for tasks: Ray takes 30 % for its objects, and has processes of its own
_GROUP_HELP = "Nodes of one kind, again for each kind: name=gpu,cpus=8,memory=64GiB,gpus=1,min=0,max=4."


class InvalidInstallation(InvalidInput):
    """The installation that is asked for cannot be."""


class Manifests(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and what to do with it."""

    folder: str
    files: tuple[str, ...]
    apply: str
    add_pool: str


@app.command()
def kubernetes(
    out: Annotated[Path, typer.Argument(help="Folder for the files; made when missing.")],
    image: Annotated[str, typer.Option("--image", help="Image with skyloom[local,train,ray], for all pods.")],
    workers: Annotated[list[str], typer.Option("--workers", help=_GROUP_HELP)],
    namespace: Annotated[str, typer.Option("--namespace", help="Made, and used for all of it.")] = "skyloom",
    tls: Annotated[
        str, typer.Option("--tls-secret", help="Secret with tls.crt and tls.key; yours, or cert-manager's.")
    ] = "skyloom-tls",
    private_ca: Annotated[
        bool, typer.Option("--private-ca", help="The issuer is in ca.crt of that Secret; nodes are to trust it.")
    ] = False,
    home_size: Annotated[str, typer.Option("--home-size", help="Disk of the control plane.")] = "50GiB",
    shared_size: Annotated[str, typer.Option("--shared-size", help="Disk that all nodes share.")] = "200GiB",
    storage_class: Annotated[str, typer.Option("--storage-class", help="Empty: the cluster's default.")] = "",
    shared_storage_class: Annotated[
        str, typer.Option("--shared-storage-class", help="One with ReadWriteMany. Empty: the cluster's default.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write YAML for a control plane and a KubeRay cluster that grows and shrinks.

    It needs KubeRay's operator (1.6 or newer), and asks no cluster anything. One file holds the cluster's token: keep it like a password.
    """
    wanted = _checked(
        {
            "image": image,
            "namespace": namespace,
            "groups": [_group(text) for text in workers],
            "ray_token": secrets.token_hex(32),
            "tls_secret": tls,
            "private_ca": private_ca,
            "home_bytes": _bytes(home_size),
            "shared_bytes": _bytes(shared_size),
            "storage_class": storage_class,
            "shared_storage_class": shared_storage_class,
        }
    )
    written = write(wanted, out)
    show(_told(wanted, out, written), as_json)


def _told(wanted: Installation, out: Path, written: list[Path]) -> Manifests:
    pool = f"skyloom pool add kubernetes {wanted.address} --token-file {TOKEN_FOLDER}/{TOKEN_KEY} --shared-folder {SHARED_FOLDER}"
    where = f"kubectl -n {wanted.namespace} exec deploy/{wanted.name} -c control-plane --"
    return Manifests(
        folder=str(out),
        files=tuple(path.name for path in written),
        apply=f"kubectl apply -f {out}",
        add_pool=f"{where} {pool} --url {wanted.url}{''.join(map(_grows, wanted.groups))}",
    )


def _grows(group: WorkerGroup) -> str:
    """What the pool is told of a group; Ray keeps something of a node's memory for itself."""
    of, memory = group.resources, f"{int(group.resources.memory_bytes * _RAY_LEAVES / 2**20)}MiB"
    gpus = f"gpus={of.gpus}," * bool(of.gpus)
    return f" --grows cpus={of.cpus:g},memory={memory},{gpus}max={group.max_nodes}"


def _group(text: str) -> dict[str, Any]:
    """Read ``name=gpu,cpus=8,…``. Raises `InvalidInstallation`."""
    needed, others = ("name", "cpus", "memory"), ("gpus", "min", "max")
    given = values.machine_words(
        "--workers", text, "a group of nodes", needed, others, _GROUP_HELP, InvalidInstallation
    )
    try:
        amounts = {"cpus": float(given["cpus"]), "gpus": int(given.get("gpus", "0"))}
        nodes = {"min_nodes": int(given.get("min", "0")), "max_nodes": int(given.get("max", "1"))}
    except ValueError as error:
        raise InvalidInstallation(f"--workers {text!r} cannot be read: {error}.", next_action=_GROUP_HELP) from None
    return {"name": given["name"], "resources": {**amounts, "memory_bytes": _bytes(given["memory"])}, **nodes}


def _bytes(text: str) -> int:
    return parse_bytes(values.size(text))


def _checked(wanted: dict[str, Any]) -> Installation:
    try:
        installation = msgspec.convert(wanted, Installation)
    except msgspec.ValidationError as error:
        raise InvalidInstallation(
            f"The installation cannot be: {error}.", next_action="See: skyloom manifest kubernetes --help."
        ) from None
    for group in installation.groups:
        _check_group(group)
    names = [group.name for group in installation.groups]
    if len(set(names)) < len(names):
        raise InvalidInstallation("Two groups have one name.", next_action="Give each --workers its own name.")
    return installation


def _check_group(group: WorkerGroup) -> None:
    if group.min_nodes > group.max_nodes:
        raise InvalidInstallation(
            f"Group {group.name} is to have at least {group.min_nodes} nodes and at most {group.max_nodes}.",
            next_action="Let min be no more than max.",
        )
    if not group.resources.cpus >= 0.1 or group.resources.memory_bytes < 2**30:
        raise InvalidInstallation(
            f"Nodes of group {group.name} are too small for Ray.", next_action="Give them 1 CPU and 4GiB or more."
        )
