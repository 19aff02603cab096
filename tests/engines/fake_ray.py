"""A cluster without Ray: keepers in this process, each over a folder of its own; nodes that die and fall silent when they are told to."""

from pathlib import Path
from typing import Any

import msgspec

from skyloom import __version__
from skyloom.core.errors import Unavailable, rebuild
from skyloom.core.resources import Resources
from skyloom.engines.ray.asks import KeeperAnswer, KeeperPlan, Upload
from skyloom.engines.ray.keeper import Keeper
from skyloom.engines.ray.wire import (
    AskKeepers,
    KeeperReply,
    ListNodes,
    ListReservations,
    RayNode,
    Release,
    Reserve,
    Reserved,
    ShipFile,
    Want,
)
from skyloom.ports.engine import GangWish


class FakeCluster:
    """Answers what a bridge would.

    Attributes:
        dead, silent: node ids that are listed as dead, that do not answer.
        down: the whole cluster cannot be reached.
        held: reservations by name.
        room: CPUs that can be reserved.
        wished: what waits, as it was told last.
        free_gpus: what every reservation gets on each of its nodes.
    """

    def __init__(self, root: Path, machines: dict[str, str], lease_s: float = 1000.0, engine_id: str = "e") -> None:
        self.root = root
        self.lease_s = lease_s
        self.engine_id = engine_id
        self.machines = dict(machines)  # node id → machine
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        self.down = False
        self.held: dict[str, tuple[str, ...]] = {}
        self.sizes: dict[str, float] = {}
        self.room = 100.0
        self.free_gpus: tuple[int, ...] = ()
        self.version = __version__
        self.wished: tuple[GangWish, ...] = ()
        self.keepers: dict[str, Keeper] = {}

    def keeper(self, node_id: str) -> Keeper:
        if node_id not in self.keepers:
            plan = KeeperPlan(
                engine_id=self.engine_id,
                node_folder=str(self.root),
                lease_s=self.lease_s,
                warm=False,
                version=__version__,
            )
            self.keepers[node_id] = Keeper(
                node_id,
                self.machines[node_id],
                "127.0.0.1",
                msgspec.msgpack.encode(plan),
                lambda: node_id not in self.dead,
                lambda: None,
            )
        return self.keepers[node_id]

    def ask(self, question: Any, kind: Any, timeout_s: float = 9.0) -> Any:
        if self.down:
            raise Unavailable("No Ray cluster answers.", next_action="Wait.")
        answer = getattr(self, f"_{type(question).__name__}")(question)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=kind)

    def close(self) -> None:
        """Nothing to let go of."""

    def _ListNodes(self, _: ListNodes) -> tuple[RayNode, ...]:
        total = Resources(cpus=8, memory_bytes=2**33)
        return tuple(
            RayNode(
                node_id=node_id,
                machine=machine,
                address="127.0.0.1",
                is_alive=node_id not in self.dead,
                total=total,
                labels={"zone": machine[:1]},
                death="killed by the test" if node_id in self.dead else "",
            )
            for node_id, machine in self.machines.items()
        )

    def _Reserve(self, ask: Reserve) -> Reserved:
        wanted = sum(bundle.resources.cpus for bundle in ask.bundles)
        if ask.name not in self.held:
            if sum(self.sizes.values()) + wanted > self.room:
                return Reserved()
            alive = [node_id for node_id in self.machines if node_id not in self.dead]
            self.held[ask.name] = tuple(bundle.node_id or alive[0] for bundle in ask.bundles)
            self.sizes[ask.name] = wanted
        return Reserved(node_ids=self.held[ask.name], gpus=(self.free_gpus,) * len(ask.bundles))

    def _Release(self, ask: Release) -> tuple[()]:
        for name in ask.names:
            self.held.pop(name, None)
            self.sizes.pop(name, None)
        return ()

    def _ListReservations(self, _: ListReservations) -> tuple[str, ...]:
        return tuple(self.held)

    def _Want(self, ask: Want) -> tuple[()]:
        self.wished = ask.wishes
        return ()

    def _AskKeepers(self, ask: AskKeepers) -> tuple[KeeperReply, ...]:
        return tuple(
            KeeperReply(silent="it does not answer")
            if call.node_id in self.silent | self.dead
            else KeeperReply(answer=self.keeper(call.node_id).do(call.ask))
            for call in ask.calls
        )

    def _ShipFile(self, ask: ShipFile) -> tuple[()]:
        piece = Upload(name=ask.upload, offset=0, content=Path(ask.source).read_bytes(), is_program=False)
        answer = msgspec.msgpack.decode(self.keeper(ask.node_id).do(msgspec.msgpack.encode(piece)), type=KeeperAnswer)
        if answer.error:
            raise rebuild(answer.error)
        return ()
