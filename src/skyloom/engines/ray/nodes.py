"""What Ray lists of its nodes, and since when a node is missing."""

from collections.abc import Iterable

from skyloom.engines.ray.wire import RayNode
from skyloom.ports.engine import Machine


class Nodes:
    """The cluster's nodes as they were last listed. Pure; moments are seconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._by_id: dict[str, RayNode] = {}
        self._missing_since: dict[str, float] = {}

    def update(self, listed: Iterable[RayNode], now: float) -> None:
        """Take a new list. A node that is missing from it counts as dead: the head was restarted."""
        self._by_id = {node.node_id: node for node in listed}
        for node in self.alive():
            self._missing_since.pop(node.node_id, None)
        for node in self._by_id.values():
            if not node.is_alive:
                self._missing_since.setdefault(node.node_id, now)

    def alive(self) -> list[RayNode]:
        """Nodes that work, by name."""
        return sorted((node for node in self._by_id.values() if node.is_alive), key=lambda node: node.machine)

    def workers(self) -> list[RayNode]:
        """The living that can run something: a head is often told to run nothing."""
        return [node for node in self.alive() if node.total.cpus or node.total.gpus]

    def machines(self) -> tuple[Machine, ...]:
        """The workers, as the port names them."""
        return tuple(Machine(name=node.machine, total=node.total, labels=node.labels) for node in self.workers())

    def is_alive(self, node_id: str) -> bool:
        """True for a node that Ray lists as alive."""
        return node_id in self._by_id and self._by_id[node_id].is_alive

    def get(self, node_id: str) -> RayNode | None:
        """A node that is listed, dead or alive."""
        return self._by_id.get(node_id)

    def named(self, machine: str) -> RayNode | None:
        """The living node of a machine."""
        return next((node for node in self.alive() if node.machine == machine), None)

    def home(self, node_id: str, machine: str) -> str:
        """Whom to ask about a task: its node, or the one that runs on the same machine since; empty when there is none."""
        if self.is_alive(node_id):
            return node_id
        successor = self.named(machine)
        return successor.node_id if successor else ""

    def dead_for_s(self, node_id: str, now: float) -> float:
        """How long we have known that a node is dead; 0 while it lives. The first look at an unknown one starts the count."""
        if self.is_alive(node_id):
            return 0.0
        return now - self._missing_since.setdefault(node_id, now)

    def why_dead(self, node_id: str) -> str:
        """What Ray says about a death."""
        node = self._by_id.get(node_id)
        return (node.death if node else "") or "Ray does not list it any more"
