"""What every export has: the plan of the server, its packages, and a page that says what to do."""

import shlex

import msgspec

from skyloom.export.model import (
    ACCESS_FILE,
    GRPC_PORT,
    IN_PROCESS,
    PLAN_FILE,
    REST_PORT,
    SERVICE_REQUIREMENTS,
    Exported,
    Target,
)
from skyloom.rooms.serving.plan import Access, ServePlan

TOKENS = f"python -m skyloom.inference.tokens {ACCESS_FILE}"


def plan(exported: Exported) -> bytes:
    """What ``python -m skyloom.inference`` reads. It listens on all addresses and says so: who exports it puts a proxy in front."""
    wanted = ServePlan(
        project="exported",
        endpoint=f"ep_{exported.label}",
        revision=f"rev_{exported.revision}",
        replica="rep_exported",
        model=exported.model,
        model_version=exported.version,
        bundle="bundle",
        manifest=exported.manifest,
        host="0.0.0.0",  # noqa: S104 (of its container; see behind_proxy)
        rest_port=REST_PORT,
        grpc_port=GRPC_PORT,
        allowed_hosts=("*",),
        access_file=ACCESS_FILE,
        log_folder="",
        port_folder="run/ports",
        cpus=exported.cpus,
        behind_proxy=True,
    )
    return msgspec.json.format(msgspec.json.encode(wanted), indent=2)


def no_tokens() -> bytes:
    """A list that lets nobody in."""
    return msgspec.json.encode(Access())


def requirements(exported: Exported) -> str:
    """As pip reads them."""
    return "".join(f"{line}\n" for line in exported.requirements)


def packages(exported: Exported) -> dict[str, str | bytes]:
    """What a service of your own Python asked for; nothing for a model."""
    note = "# What the service asked for. Packages of the pool that it imports beside (torch, …) go here too.\n"
    return {SERVICE_REQUIREMENTS: f"{note}{exported.packages.rstrip()}\n"} if exported.methods else {}


def installed(exported: Exported) -> str:
    """The arguments that make pip install it."""
    return " ".join(f"--requirement {name}" for name in exported.requirement_files)


def page(exported: Exported, target: Target, start: str) -> str:
    """README.md: ``start`` is what differs."""
    own = (
        f"\nThe service's own packages stand in `{SERVICE_REQUIREMENTS}`: add what it used of the pool's.\n"
        if exported.methods
        else ""
    )
    if exported.secrets:
        own += (
            f"\nIts code reads secrets, not in this folder: {', '.join(exported.secrets)}. Give it these by what the platform has "
            "for it: variables of the process, or files that a variable names.\n"
        )
    return f"""\
# {exported.name}: {exported.model} version {exported.version} for {target.value}
Made by `skyloom export {exported.name} --to {target.value}` from revision {exported.revision}.
It runs without Skyloom's control plane: `skyloom/` is the server's own code, `bundle/` the model, `{PLAN_FILE}` what the server is told,
`requirements.txt` its packages, pinned.
{own}
## Who may ask
Nobody, at first: `{ACCESS_FILE}` lists digests of tokens and is empty. Make one here, and keep what it prints:

    {TOKENS}

It needs a Python with `msgspec` (or with Skyloom). The list holds digests only; a running server reads it again when it changes.
To take a token away, remove its digest. Without a token only `/v2/health/live` and `/v2/health/ready` answer.

## TLS
There is none in this server. It listens on all addresses of its container or machine (`behind_proxy` in `{PLAN_FILE}`), so put something
in front that ends TLS: an ingress, a load balancer, a gateway of the platform.
Until then, whoever can listen to the network can read tokens and rows.

## Start
{start}
## Ask
{_ask(exported, target)}

## What stays behind
No request log is kept (`log_folder` is empty; name a folder on a disk to keep one), so predictions cannot be looked up; drift and alerts
are the control plane's. `/metrics` has the numbers for Prometheus. For another version of the model, export again.
"""


def _ask(exported: Exported, target: Target) -> str:
    """How to ask it, with a row that fits where one is known."""
    curl = '    curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d'
    infer = f"/v2/models/{exported.model}/infer"
    if target in IN_PROCESS:
        return f"{curl} @request.json ADDRESS{infer}\n\nThe Open Inference Protocol v2 over REST, at the address that the platform gives."
    ports = f"REST on port {REST_PORT}, gRPC on {GRPC_PORT} where the platform passes it on."
    if exported.methods or not exported.example:
        called = f"/{exported.methods[0]}" if exported.methods else infer
        return f"{curl} @request.json http://ADDRESS{called}\n\nThe Open Inference Protocol v2: {ports}"
    return (
        f"{curl} {shlex.quote(exported.example)} http://ADDRESS/predict\n\n"
        "`TOKEN` is what was printed above; on this machine `ADDRESS` is 127.0.0.1:8080. An object is one row, a list many.\n"
        f"The Open Inference Protocol v2 is at `{infer}`: {ports}"
    )
