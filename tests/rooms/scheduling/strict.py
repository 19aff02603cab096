"""A scheduler of thirty lines that obviously does first come, first served: for tests of what is built on schedulers."""

from collections.abc import Iterable

from skyloom.rooms.scheduling.model import Admission, Decision, Demand, Holding, Node


class StrictQueue:
    """The oldest first; who does not fit stops all behind it. Counts GPUs only."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.waiting: dict[str, Demand] = {}
        self.held: dict[str, Holding] = {}
        self.set_nodes(nodes)

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        self.nodes = list(nodes)

    def submit(self, gang: Demand) -> None:
        self.waiting[gang.id] = gang

    def withdraw(self, gang_id: str) -> None:
        self.waiting.pop(gang_id, None)

    def hold(self, holding: Holding) -> None:
        self.waiting.pop(holding.demand.id, None)
        self.held[holding.demand.id] = holding

    def release(self, gang_id: str, now: float) -> None:
        self.held.pop(gang_id, None)

    def decide(self, now: float, num_explained: int = 200) -> Decision:
        free = {node.name: node.total.gpus for node in self.nodes}
        for holding in self.held.values():
            for name, workers in holding.placement:
                free[name] -= workers * holding.demand.resources.gpus
        admissions = []
        for gang in sorted(self.waiting.values(), key=lambda gang: (-gang.priority, gang.submitted_at, gang.id)):
            if sum(free.values()) < gang.min_workers:
                break
            placement, missing = [], gang.min_workers
            for name in free:
                if missing and free[name]:
                    taken = min(missing, free[name])
                    placement.append((name, taken))
                    free[name] -= taken
                    missing -= taken
            admissions.append(Admission(gang=gang.id, placement=tuple(placement)))
        return Decision(admissions=tuple(admissions))
