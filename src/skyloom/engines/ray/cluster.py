"""All calls to Ray are here: connect, list nodes, reserve by placement group, reach the keeper of a node.

Ray Core only. Imported by the bridge and, on nodes, by the keeper; never by the control plane.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import msgspec
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayError
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from skyloom import __version__
from skyloom.core.errors import Unavailable, rebuild
from skyloom.core.resources import Resources
from skyloom.engines.ray.asks import MAX_PIECE_BYTES, KeeperAnswer, Upload
from skyloom.engines.ray.keeper import Keeper
from skyloom.engines.ray.wire import (
    Ask,
    AskKeepers,
    Bundle,
    KeeperReply,
    ListNodes,
    ListReservations,
    Opening,
    RayNode,
    Release,
    Reserve,
    Reserved,
    ShipFile,
    Want,
)
from skyloom.ports.engine import GangWish, PoolTokenRefused

_CLIENT = "ray://"
# How a question ends that Ray did look at: the question of `probe` asks for nothing that could be found.
_ADMITTED = (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)
_PROBE_S = 3.0
_LEAST_CPUS = 0.001  # a bundle of nothing is refused by Ray
_NUM_KEEPER_THREADS = 8
_AGAIN_S = 0.1
_GPUS_S = 6.0  # a worker of Ray may have to start for it
_NODE_LABEL = "ray.io/node-id"


class RayCluster:
    """One connection to one cluster. Ray allows a process no second one. Thread-safe.

    Making it reaches the cluster: it raises `Unavailable` that says what is wrong, and may block for half a minute.
    """

    def __init__(self, opening: Opening) -> None:
        probe(opening.address, opening.token_file)
        self._opening = opening
        self._namespace = f"skyloom-{opening.engine_id}"  # two clouds on one cluster do not see each other's actors
        self._lock = threading.Lock()
        self._keepers: dict[str, Any] = {}
        self._wishing = threading.Lock()
        self._wished: dict[GangWish, PlacementGroup] = {}
        self._nodes: dict[str, RayNode] = {}
        ray.init(opening.address, namespace=self._namespace, log_to_driver=False, configure_logging=False)

    def do(self, ask: Ask) -> Any:
        """Answer one request of the control plane."""
        handler: Callable[[RayCluster, Any], Any] = _HANDLERS[type(ask)]
        try:
            return handler(self, ask)
        except (RayError, ConnectionError, TimeoutError) as error:
            raise Unavailable(
                f"The Ray cluster at {self._opening.address} does not answer: {_first_line(error)}.",
                next_action="It is tried again; tasks go on while their node reaches the head.",
            ) from error

    def list_nodes(self, _: ListNodes) -> tuple[RayNode, ...]:
        """All nodes, dead ones included."""
        listed = ray.nodes()
        names = _machine_names(listed)
        found = tuple(_node(entry, names.get(entry["NodeID"], entry["NodeName"])) for entry in listed)
        self._nodes = {node.node_id: node for node in found}
        return found

    # --- reservations ----------------------------------------------------------------------------------------------------------

    def reserve(self, ask: Reserve) -> Reserved:
        """A placement group: all bundles or none, until it is released, whoever lives."""
        with self._wishing:  # what came because it was wished for is to be had now
            self._unwish(list(self._wished))
            group = self._existing(ask.name) or self._reservation(ask)
        if not group.wait(ask.timeout_s):
            remove_placement_group(group)
            return Reserved()
        placed: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
        node_ids = tuple(placed[index] for index in range(len(ask.bundles)))
        return Reserved(node_ids=node_ids, gpus=_gpus(group, ask.bundles))

    def _reservation(self, ask: Reserve) -> PlacementGroup:
        return placement_group(
            [_amounts(bundle.resources) for bundle in ask.bundles],
            strategy="PACK",
            name=self._full_name(ask.name),
            lifetime="detached",
            bundle_label_selector=[{_NODE_LABEL: bundle.node_id} if bundle.node_id else {} for bundle in ask.bundles],
        )

    def want(self, ask: Want) -> tuple[()]:
        """Wishes are placement groups that nobody pins: as long as one finds no place, Ray's autoscaler makes it.

        Not ``request_resources``: that is one number for the whole cluster, which the next cloud on it overwrites, that does not see
        what others use there, that outlives whoever asked, and of which the autoscaler gives nothing when it cannot give all.
        These are not detached: Ray removes them half a minute after this process is gone.
        """
        with self._wishing:
            self._unwish([wish for wish in self._wished if wish not in ask.wishes])
            for wish in ask.wishes:
                if wish not in self._wished:
                    bundles = [_amounts(wish.resources)] * wish.num_workers
                    strategy = "STRICT_PACK" if wish.together else "PACK"
                    self._wished[wish] = placement_group(bundles, strategy=strategy)
        return ()

    def _unwish(self, wishes: Iterable[GangWish]) -> None:
        for wish in wishes:
            remove_placement_group(self._wished[wish])
            del self._wished[wish]

    def _full_name(self, name: str) -> str:
        return f"{self._namespace}:{name}"

    def _existing(self, name: str) -> PlacementGroup | None:
        try:
            return get_placement_group(self._full_name(name))
        except ValueError:
            return None

    def release(self, ask: Release) -> tuple[()]:
        """Give reservations back."""
        for name in ask.names:
            group = self._existing(name)
            if group is not None:
                remove_placement_group(group)
        return ()

    def list_reservations(self, _: ListReservations) -> tuple[str, ...]:
        """Names of what is reserved."""
        prefix = self._full_name("")
        groups = placement_group_table().values()
        ours = [group for group in groups if group["name"].startswith(prefix) and group["state"] != "REMOVED"]
        return tuple(group["name"].removeprefix(prefix) for group in ours)

    # --- keepers ---------------------------------------------------------------------------------------------------------------

    def _keeper(self, node_id: str) -> Any:
        """The keeper of a node, started when it is missing. It belongs to nobody: it lives until its node ends."""
        if node_id not in self._nodes:
            self.list_nodes(ListNodes())
        node = self._nodes.get(node_id)
        if node is None:
            raise Unavailable(
                f"Ray does not list node {node_id[:8]} any more.", next_action="Its head was restarted; ask again."
            )
        with self._lock:
            if node_id not in self._keepers:
                self._keepers[node_id] = self._start_keeper(node)
            return self._keepers[node_id]

    def _start_keeper(self, node: RayNode) -> Any:
        options = {
            "name": f"keeper-{__version__}-{node.node_id}",  # another version has another, beside the old one
            "namespace": self._namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_concurrency": _NUM_KEEPER_THREADS,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        }
        is_alive = functools.partial(lists_alive, node.node_id)
        leave = functools.partial(_leave, options["name"], self._namespace)
        kind = ray.remote(Keeper).options(**options)
        return kind.remote(node.node_id, node.machine, node.address, self._opening.keeper, is_alive, leave)

    def ask_keepers(self, ask: AskKeepers) -> tuple[KeeperReply, ...]:
        """Ask all at once, then collect."""
        asked = time.monotonic()
        pending = [self._keeper(call.node_id).do.remote(call.ask) for call in ask.calls]
        pairs = zip(ask.calls, pending, strict=True)
        return tuple(
            self._reply(call.node_id, call.ask, reference, asked + call.timeout_s) for call, reference in pairs
        )

    def _reply(self, node_id: str, ask: bytes, reference: Any, deadline: float) -> KeeperReply:
        """Wait for an answer; a keeper that was just killed is asked again once Ray has restarted it."""
        while True:
            try:
                return KeeperReply(answer=ray.get(reference, timeout=max(0.0, deadline - time.monotonic())))
            except GetTimeoutError:
                return KeeperReply(silent="it does not answer")
            except ActorUnavailableError as error:
                why = _first_line(error)
            except ActorDiedError as error:
                with self._lock:
                    self._keepers.pop(node_id, None)
                why = _first_line(error)
            except RayError as error:
                return KeeperReply(silent=_first_line(error))
            if time.monotonic() > deadline:
                return KeeperReply(silent=why)
            time.sleep(_AGAIN_S)
            reference = self._keeper(node_id).do.remote(ask)

    def ship_file(self, ask: ShipFile) -> tuple[()]:
        """Send a file piece by piece; an empty one is a piece too."""
        deadline = time.monotonic() + ask.timeout_s
        keeper = self._keeper(ask.node_id)
        with Path(ask.source).open("rb") as file:
            is_program = bool(os.fstat(file.fileno()).st_mode & 0o100)
            offset = 0
            while (content := file.read(MAX_PIECE_BYTES)) or offset == 0:
                piece = Upload(name=ask.upload, offset=offset, content=content, is_program=is_program)
                left_s = max(0.0, deadline - time.monotonic())
                encoded = ray.get(keeper.do.remote(msgspec.msgpack.encode(piece)), timeout=left_s)
                answer = msgspec.msgpack.decode(encoded, type=KeeperAnswer)
                if answer.error is not None:
                    raise rebuild(answer.error)
                if not content:
                    break
                offset += len(content)
        return ()


_HANDLERS: dict[type, Callable[[RayCluster, Any], Any]] = {
    ListNodes: RayCluster.list_nodes,
    Reserve: RayCluster.reserve,
    Release: RayCluster.release,
    ListReservations: RayCluster.list_reservations,
    Want: RayCluster.want,
    AskKeepers: RayCluster.ask_keepers,
    ShipFile: RayCluster.ship_file,
}


def lists_alive(node_id: str) -> bool:
    """Asked on a node: does the cluster's head list it as alive? Blocks while the head cannot be reached."""
    return any(entry["NodeID"] == node_id and entry["Alive"] for entry in ray.nodes())


def _leave(name: str, namespace: str) -> None:
    """Called on a node by a keeper that is needed no more: ends it for good."""
    ray.kill(ray.get_actor(name, namespace=namespace), no_restart=True)


def probe(address: str, token_file: str) -> None:
    """Ask once with the token and once without: Ray itself tries for half a minute and then does not say what was wrong.

    Raises `Unavailable` when nobody answers, when it is another port than this kind of address needs, when another token is
    wanted (`PoolTokenRefused`), and when none is: whoever reaches such a cluster can run programs on it (ShadowRay, CVE-2023-48022).
    """
    method = (
        "/ray.rpc.RayletDriver/ClusterInfo" if address.startswith(_CLIENT) else "/ray.rpc.NodeInfoGcsService/CheckAlive"
    )
    with grpc.insecure_channel(address.removeprefix(_CLIENT)) as channel:
        call = channel.unary_unary(method)
        code = _code(call, {"authorization": f"Bearer {Path(token_file).read_text().strip()}"})
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise Unavailable(
                f"No Ray cluster answers at {address}.",
                next_action="Check the address and the port, that the cluster runs, and that a firewall lets you through.",
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise _wrong_port(address)
        if code is grpc.StatusCode.UNAUTHENTICATED:
            raise PoolTokenRefused(
                f"The Ray cluster at {address} wants another token than the one that it was shown.",
                next_action="Add the pool with the token that the cluster was started with (RAY_AUTH_TOKEN_PATH): --token-file FILE.",
            )
        without = _code(call, {})
        if without in _ADMITTED:
            raise Unavailable(
                f"The Ray cluster at {address} wants no token: whoever reaches it can run programs there. It is not used.",
                next_action="Start all of its nodes with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH.",
            )
        if without is not grpc.StatusCode.UNAUTHENTICATED:
            raise Unavailable(
                f"Whether {address} wants a token could not be found out: asked without one it said {without.name}.",
                next_action="Check that this is the port of a Ray cluster, and try again.",
            )


def _wrong_port(address: str) -> Unavailable:
    """Somebody speaks gRPC there, but not what Ray speaks on the port that is meant."""
    if address.startswith(_CLIENT):
        return Unavailable(
            f"{address} is not a Ray client port.",
            next_action="Give the port of `ray start --ray-client-server-port`, 10001 by default; 6379 is another one, of the head.",
        )
    return Unavailable(
        f"{address} is not the head of a Ray cluster.",
        next_action="Give the port of `ray start --port`, 6379 by default; or, for the client port, ray://HOST:10001.",
    )


def _code(call: Any, metadata: Mapping[str, str]) -> grpc.StatusCode:
    """How a call ends that asks for nothing."""
    try:
        call(b"", metadata=tuple(metadata.items()), timeout=_PROBE_S)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def _machine_names(listed: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Names of the living: Ray's node name, which outlives a restart; where two share one, each adds its own id."""
    living: dict[str, list[str]] = {}
    for entry in listed:
        if entry["Alive"]:
            living.setdefault(entry["NodeName"], []).append(entry["NodeID"])
    return {
        node_id: name if len(node_ids) == 1 else f"{name}-{node_id[:8]}"
        for name, node_ids in living.items()
        for node_id in node_ids
    }


def _node(entry: Mapping[str, Any], machine: str) -> RayNode:
    has = entry["Resources"]
    return RayNode(
        node_id=entry["NodeID"],
        machine=machine,
        address=entry["NodeManagerAddress"],
        is_alive=entry["Alive"],
        total=Resources(cpus=has.get("CPU", 0.0), gpus=int(has.get("GPU", 0)), memory_bytes=int(has.get("memory", 0))),
        labels={name: value for name, value in entry["Labels"].items() if name != _NODE_LABEL},
        death=entry.get("DeathReasonMessage") or "",
    )


def _amounts(resources: Resources) -> dict[str, float]:
    wanted = {"CPU": resources.cpus, "GPU": float(resources.gpus), "memory": float(resources.memory_bytes)}
    return {name: amount for name, amount in wanted.items() if amount} or {"CPU": _LEAST_CPUS}


def _gpus(group: PlacementGroup, bundles: Sequence[Bundle]) -> tuple[tuple[int, ...], ...]:
    """Which GPUs Ray set aside: only a task inside of the bundle is told."""
    wanted = {
        index: ray.remote(_own_gpus)
        .options(
            num_cpus=0,
            num_gpus=bundle.resources.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        )
        .remote()
        for index, bundle in enumerate(bundles)
        if bundle.resources.gpus
    }
    told = dict(zip(wanted, ray.get(list(wanted.values()), timeout=_GPUS_S), strict=True))
    return tuple(told.get(index, ()) for index in range(len(bundles)))


def _own_gpus() -> tuple[int, ...]:
    return tuple(int(index) for index in ray.get_gpu_ids())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
