"""A gateway as a process or inside of the test, and replicas of a few lines that say what they are told to."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec

import skyloom
from skyloom.rooms.serving.routes import Backend, EndpointRoute, GatewayPlan, RoutingTable, Share
from tests.inference.serving import HEADERS, TOKEN, PlannedProcess, free_port, write_access


def backend(port: int, replica: str = "rep_1") -> Backend:
    return Backend(replica=replica, port=port)


def share(revision: str, *backends: Backend, weight: float = 1.0, number: int = 1) -> Share:
    return Share(revision=revision, number=number, weight=weight, backends=backends)


def make_route(*shares: Share, **changes) -> EndpointRoute:
    route = EndpointRoute(
        endpoint="ep_1",
        model="toy",
        rest_port=free_port(),
        grpc_port=free_port(),
        access_file="access.json",
        shares=shares,
    )
    return msgspec.structs.replace(route, **changes)


def publish(folder: Path, *routes: EndpointRoute) -> None:
    """Write the routing file as the control plane does: whole, in one step."""
    draft = folder / "routes.new"
    draft.write_bytes(msgspec.json.encode(RoutingTable(routes=routes)))
    draft.replace(folder / "routes.json")


def make_plan(folder: Path, **changes) -> Path:
    plan = GatewayPlan(
        project="default", gateway="gw_1", routing_file="routes.json", port_folder="ports", ready_file="gateway.ready"
    )
    path = folder / "gateway.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, **changes)))
    return path


class GatewayChild(PlannedProcess):
    """A gateway that was started."""

    def __init__(self, plan: Path, environment: dict[str, str] | None = None) -> None:
        self.output = plan.with_suffix(".out")
        self._ready = plan.with_suffix(".ready")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "skyloom.inference.gateway", str(plan)],
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(Path(skyloom.__file__).parents[1]),
                    **(environment or {}),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )


@contextlib.contextmanager
def gateway(folder: Path, *routes: EndpointRoute, **changes) -> Iterator[tuple[GatewayChild, httpx.Client]]:
    """A gateway before ``routes``, with a client of the first one that shows the token."""
    if not (folder / "access.json").exists():
        write_access(folder / "access.json", TOKEN)
    publish(folder, *routes)
    child = GatewayChild(make_plan(folder, **changes))
    try:
        child.wait_ready()
        base = f"http://127.0.0.1:{routes[0].rest_port}"
        with httpx.Client(base_url=base, headers=HEADERS, timeout=20, trust_env=False, verify=False) as client:
            yield child, client
    finally:
        child.end()
