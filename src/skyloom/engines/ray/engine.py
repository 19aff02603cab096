"""`RayEngine`: the port's promises on a Ray cluster. Ray itself is behind a bridge (`link.py`) and is never imported here.

Each node has a keeper that runs the local engine over a folder of that node, so a task has the same supervisor, the same files and
the same ends as on a laptop. A gang holds one placement group; nothing of a task lives in a process that Ray would kill.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from skyloom import __version__
from skyloom.core.errors import InvalidInput, SkyloomError, StorageFull, Unavailable
from skyloom.core.resources import NOTHING, Resources
from skyloom.durable import is_full
from skyloom.engines.local.folder import ids_of, is_task_id
from skyloom.engines.local.prepare import Place
from skyloom.engines.ray.asks import (
    MAX_PIECE_BYTES,
    ConnectTask,
    EnterTask,
    Forget,
    Greeting,
    KeeperAsk,
    KeeperPlan,
    Observe,
    ReadTaskLog,
    ReadTaskResult,
    Stop,
)
from skyloom.engines.ray.gangs import Gangs
from skyloom.engines.ray.keepers import Keepers
from skyloom.engines.ray.keepsakes import Keepsakes, slice_of
from skyloom.engines.ray.link import Link, Questions
from skyloom.engines.ray.nodes import Nodes
from skyloom.engines.ray.placements import Placement, Placements
from skyloom.engines.ray.remote import RemoteChannel
from skyloom.engines.ray.shared import SharedFolder
from skyloom.engines.ray.wire import ListReservations, Opening, RayNode, Release, Want
from skyloom.ports.channel import GuestCommand, TaskChannel
from skyloom.ports.engine import (
    Ability,
    EndReason,
    GangPlan,
    GangWish,
    LogSlice,
    Machine,
    Observation,
    TaskNotThere,
    TaskPhase,
)

_ALWAYS = {Ability.MEMORY_LIMIT, Ability.PYTHON_ENVIRONMENT, Ability.MOUNTS, Ability.EXEC, Ability.CONNECT}
_FENCE_S = 5.0  # after a lease: for supervisors to see its end and to kill
_LOST_LOG = b"[skyloom] the output is on a node that is lost\n"


class RayEngine:
    """Runs tasks on the nodes of one Ray cluster. Making it connects to nothing; every call that needs the cluster raises
    `Unavailable` within ten seconds when it cannot be reached.

    Nodes need Ray 2.60 and the same version of Skyloom as the control plane. Bytes that a plan carries, secrets too, go through
    Ray: on a network that others can listen to, turn on Ray's own TLS.

    Args:
        folder: the engine's own, on the control plane's disk: where each task was sent, and the log of the bridge.
        address: ``ray://HOST:PORT`` of the cluster's client server; or ``HOST:PORT`` of its head, from a machine that is a node of it.
        token_file: the token that the cluster was started with (``RAY_AUTH_MODE=token``). A cluster that wants none is refused.
        engine_id: names all that is ours in the cluster, so that two clouds may use one cluster. The same id over the same folder
            adopts what runs.
        shared_folder: absolute folder that is the same storage on all nodes (NFS and the like). This is checked for real before a
            gang spans nodes. Empty: every node has one of its own, so a gang stays on one node, and a retry on another node does
            not find the checkpoints of the attempt before.
        url: of the control plane as nodes reach it, told to tasks as ``SKYLOOM_URL``; empty leaves what the plan says.
        node_folder: folder on each node below which task folders are kept.
        lease_s: how long tasks of a node that is cut off go on. NODE_LOST is said when Ray lists the node as dead and the lease
            is over, so a shorter one recovers sooner and suffers more from a head that is slow.
        warm: keep a process with the training imports done on every node that runs something.
        keeper_idle_s: keepers leave after so long without a question and a task; the next question brings another. Ray's autoscaler
            takes away no node where one is. With them goes what lies on a node, so output (4 MiB) and result of each task are brought
            here when it ends. 0: keepers stay.
        link: answers instead of a bridge to a real cluster.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str,
        token_file: Path,
        engine_id: str,
        shared_folder: str = "",
        url: str = "",
        node_folder: str = "~/.skyloom/ray",
        lease_s: float = 30.0,
        warm: bool = True,
        keeper_idle_s: float = 0.0,
        link: Questions | None = None,
    ) -> None:
        if not is_task_id(engine_id):
            raise InvalidInput(
                f"{engine_id!r} cannot name an engine.", next_action="Use letters, digits, dot, dash and underscore."
            )
        self.engine_id = engine_id
        self._folder = folder.absolute()
        plan = KeeperPlan(
            engine_id=engine_id,
            node_folder=node_folder,
            lease_s=lease_s,
            warm=warm,
            version=__version__,
            idle_s=keeper_idle_s,
        )
        opening = Opening(
            address=address,
            token_file=str(token_file.absolute()),
            engine_id=engine_id,
            keeper=msgspec.msgpack.encode(plan),
        )
        try:
            self._placements = Placements(self._folder / "placements")
        except OSError as error:
            raise _translated(error, self._folder) from error
        self._bridge = Link(opening, self._folder / "bridge.log")
        self._link: Questions = link or self._bridge
        self._keepers = Keepers(self._link, self._adopt)
        self._kept = Keepsakes(self._folder / "kept", self._keepers, wanted=keeper_idle_s > 0)
        self._shared = SharedFolder(shared_folder, self._keepers)
        self._gangs = Gangs(
            self._link,
            self._keepers,
            self._placements,
            self._shared,
            engine_id=engine_id,
            url=url,
            make_room=self._release_unused,
        )
        self._launch_lock = threading.Lock()
        self._lock = threading.Lock()
        self._last: dict[str, Observation] = {}
        self._released: set[str] = set()
        self.abilities = frozenset(_ALWAYS | ({Ability.WARM_START} if warm else set()))

    def check(self) -> Sequence[Machine]:
        """Reach every node: its keeper answers, its version is ours, and the shared folder, where one is named, is there and shared.

        For the moment a pool is added. Returns its machines. Raises `Unavailable`, `SharedFolderMissing` or `NotShared`, which say
        what is wrong where.
        """
        node_ids = [node.node_id for node in self._keepers.nodes(fresh=True).workers()]
        self._keepers.greet(node_ids, again=True)
        if self._shared.path:
            self._shared.check_there(node_ids)
            self._shared.check(node_ids)
        return self.machines()

    def _adopt(self, node: RayNode, greeting: Greeting) -> None:
        """Tasks that a node has and we do not know: our folder was lost, or restored from an older copy."""
        found = [
            Placement(
                task_id=task_id,
                reservation="",
                node_id=node.node_id,
                machine=node.machine,
                place=Place(0, 0, 0, ()),
                lease_s=greeting.lease_s,
            )
            for task_id in greeting.known
            if self._placements.get(task_id) is None
        ]
        with self._lock:
            self._placements.write(found)

    # --- launch ----------------------------------------------------------------------------------------------------------------

    def launch(self, gang: GangPlan) -> None:
        """Start a gang; see the port. Files are sent to the nodes first, so this takes as long as that does."""
        names = ids_of(gang)
        with self._launch_lock:
            seen = self.observe(names)
            absent = [name for name in names if seen[name].phase is TaskPhase.ABSENT]
            if not absent:
                return
            try:
                self._released.discard(gang.gang_id)
                self._gangs.start(gang, absent)
            except OSError as error:
                raise _translated(error, self._folder) from error

    # --- look ------------------------------------------------------------------------------------------------------------------

    def observe(self, task_ids: Sequence[str]) -> Mapping[str, Observation]:
        """Look at tasks; see the port. A node that does not answer shows what was last seen, until Ray lists it as dead."""
        found: dict[str, Observation] = {}
        unknown: list[Placement] = []
        for task_id in task_ids:
            placement = self._placements.get(task_id)
            if placement is None:
                found[task_id] = Observation(task_id=task_id, phase=TaskPhase.ABSENT)
            elif placement.end is not None:
                found[task_id] = placement.end
            else:
                unknown.append(placement)
        if unknown:
            found.update(self._look(unknown))
        return {task_id: found[task_id] for task_id in task_ids}

    def _look(self, placements: Sequence[Placement]) -> dict[str, Observation]:
        nodes = self._keepers.nodes()
        by_home = _by_home(placements, nodes)
        questions: dict[str, KeeperAsk] = {
            home: Observe(task_ids=tuple(each.task_id for each in those)) for home, those in by_home.items() if home
        }
        answers = self._keepers.ask_all(questions, dict[str, Observation])
        found = {}
        for home, those in by_home.items():
            answer = answers.get(home)
            for placement in those:
                told = None if answer is None or isinstance(answer, Exception) else answer[placement.task_id]
                why = str(answer) if isinstance(answer, Exception) else ""
                found[placement.task_id] = self._judge(placement, told, why, nodes)
        self._release_ended(found.values())
        return found

    def _judge(self, placement: Placement, told: Observation | None, why: str, nodes: Nodes) -> Observation:
        """What is true of a task, from what its node says, or from its silence."""
        if told is not None and (nodes.is_alive(placement.node_id) or told.phase is TaskPhase.ENDED):
            return self._remember(told, placement, nodes)
        if nodes.dead_for_s(placement.node_id, time.monotonic()) > placement.lease_s + _FENCE_S:
            return self._give_up(placement, nodes.why_dead(placement.node_id))
        last = self._last.get(placement.task_id)
        text = why or f"node {placement.machine} is gone; it is said to be lost when its lease is over"
        if last is not None:
            return msgspec.structs.replace(last, message=text)
        return Observation(task_id=placement.task_id, phase=TaskPhase.STARTING, message=text)

    def _remember(self, seen: Observation, placement: Placement, nodes: Nodes) -> Observation:
        if seen.phase is TaskPhase.ABSENT:
            return seen  # and not remembered: once its node is silent, nobody knows whether it was started
        if seen.phase is not TaskPhase.ENDED:
            self._last[seen.task_id] = seen
            return seen
        try:
            self._bring(placement, nodes)
            return self._settle(seen)
        except OSError:
            return seen  # not written, and asked for again after a restart: nothing to stop the others for

    def _bring(self, placement: Placement, nodes: Nodes) -> None:
        """Bring what an ended task left, once, where its node may go. A node that falls silent now has it still."""
        if self._kept.wanted and self._kept.get(placement.task_id) is None:
            with contextlib.suppress(Unavailable):
                self._kept.bring(placement.task_id, nodes.home(placement.node_id, placement.machine))

    def _give_up(self, placement: Placement, why: str) -> Observation:
        """The verdict. It is written down before it is told: whatever the node says later, the task has ended."""
        verdict = Observation(
            task_id=placement.task_id,
            phase=TaskPhase.ENDED,
            reason=EndReason.NODE_LOST,
            ended_at=time.time(),
            message=f"node {placement.machine} is lost: {why}",
        )
        try:
            return self._settle(verdict)
        except OSError as error:
            raise _translated(error, self._folder) from error

    def _settle(self, end: Observation) -> Observation:
        """Write down how a task ended, and return it; the end that another thread was first to write stands."""
        with self._lock:
            self._last.pop(end.task_id, None)
            placement = self._placements.get(end.task_id)
            if placement is None:
                return end  # forgotten meanwhile
            if placement.end is None:
                self._placements.write([msgspec.structs.replace(placement, end=end)])
            return placement.end or end

    def _release_ended(self, seen: Iterable[Observation]) -> None:
        """Give back what gangs held that are over, once."""
        found = (self._placements.get(what.task_id) for what in seen if what.phase is TaskPhase.ENDED)
        names = {placement.reservation for placement in found if placement and placement.reservation}
        over = tuple(name for name in names - self._released if self._is_over(name))
        if over:
            self._link.ask(Release(names=over), tuple[()])
            self._released.update(over)

    def _release_unused(self) -> None:
        """Give back what is held for gangs that nobody looked at since they ended, that were never written down, or of which
        nothing ever ran. Called while nothing else is launched."""
        held = self._link.ask(ListReservations(), tuple[str, ...])
        mine = {name: self._placements.of_reservation(name) for name in held}
        self._released.difference_update(held)
        seen = self.observe([placement.task_id for placements in mine.values() for placement in placements])
        self._release_ended(seen.values())
        idle = {TaskPhase.ABSENT, TaskPhase.ENDED}
        unused = tuple(
            name
            for name, placements in mine.items()
            if name not in self._released and all(seen[placement.task_id].phase in idle for placement in placements)
        )
        self._link.ask(Release(names=unused), tuple[()])

    def _is_over(self, reservation: str) -> bool:
        return all(placement.end is not None for placement in self._placements.of_reservation(reservation))

    def capacity(self) -> Resources:
        """All that the living nodes have; see the port."""
        return sum((machine.total for machine in self.machines()), NOTHING)

    def machines(self) -> Sequence[Machine]:
        """The living nodes; see the port. A node's name is Ray's (``ray start --node-name``, else its address)."""
        machines = self._keepers.nodes().machines()
        if any(machine.total.gpus for machine in machines):
            self.abilities |= {Ability.GPU}
        return machines

    def wants(self, wishes: Sequence[GangWish]) -> None:
        """Tell Ray's autoscaler what waits; see the port."""
        self._link.ask(Want(wishes=tuple(wishes)), tuple[()])

    def read_log(self, task_id: str, offset: int, limit: int) -> LogSlice:
        """Read output bytes; see the port. Raises `Unavailable` while the task's node is silent."""
        placement = self._placements.get(task_id)
        if placement is None:
            return LogSlice(content=b"", next_offset=offset, total_bytes=offset)
        kept = self._kept.get(task_id)
        if kept is not None and kept.is_whole:
            return slice_of(kept, offset, limit)
        home = self._home(placement)
        if not home:
            return slice_of(kept, offset, limit) if kept else _lost_log(offset)
        content = bytearray()
        while True:
            wanted = min(limit - len(content), MAX_PIECE_BYTES)
            part = self._keepers.ask(
                home, ReadTaskLog(task_id=task_id, offset=offset + len(content), limit=wanted), LogSlice
            )
            content += part.content
            if len(part.content) < wanted or len(content) >= limit:
                return LogSlice(content=bytes(content), next_offset=offset + len(content), total_bytes=part.total_bytes)

    def read_result(self, task_id: str) -> bytes | None:
        """Return what the task left; see the port. Raises `Unavailable` while the task's node is silent."""
        placement, kept = self._placements.get(task_id), self._kept.get(task_id)
        if kept is not None:
            return kept.result
        home = self._home(placement) if placement else ""
        return self._keepers.ask(home, ReadTaskResult(task_id=task_id), bytes | None) if home else None

    def _home(self, placement: Placement) -> str:
        """The node that has a task's files; empty when they are lost for ever. Raises `Unavailable` while it is not there."""
        home = self._keepers.nodes().home(placement.node_id, placement.machine)
        is_lost = placement.end is not None and (self._kept.wanted or placement.end.reason is EndReason.NODE_LOST)
        if not home and not is_lost:
            raise Unavailable(
                f"Node {placement.machine} of task {placement.task_id} is not there.",
                next_action="Try again when it is back.",
            )
        return home

    # --- end -------------------------------------------------------------------------------------------------------------------

    def stop(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        """Ask tasks to stop; see the port. A node that is silent ends them by its lease."""
        known = [placement for task_id in task_ids if (placement := self._placements.get(task_id))]
        running = [each for each in known if each.end is None]
        if running:
            by_home = _by_home(running, self._keepers.nodes())
            self._tell(by_home, lambda those: Stop(task_ids=tuple(each.task_id for each in those), force=force))

    def known(self) -> Sequence[str]:
        """Ids of all tasks that were sent to a node, or found on one."""
        return sorted(placement.task_id for placement in self._placements)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the files of ended tasks; see the port."""
        seen = self.observe([task_id for task_id in task_ids if self._placements.get(task_id)])
        ended = [
            placement
            for task_id, what in seen.items()
            if what.phase is TaskPhase.ENDED and (placement := self._placements.get(task_id))
        ]
        if ended:
            by_home = _by_home(ended, self._keepers.nodes())
            self._tell(by_home, lambda those: Forget(task_ids=tuple(each.task_id for each in those)))
        with self._lock:
            for placement in ended:
                self._placements.remove(placement.task_id)
                self._kept.remove(placement.task_id)

    def _tell(
        self, by_home: Mapping[str, Sequence[Placement]], question: Callable[[Sequence[Placement]], KeeperAsk]
    ) -> None:
        self._keepers.ask_all({home: question(those) for home, those in by_home.items() if home}, None)

    # --- go inside -------------------------------------------------------------------------------------------------------------

    def enter(self, task_id: str, command: GuestCommand) -> TaskChannel:
        """Run a command inside of a running task; see the port. Its bytes go through the keeper of its node."""
        home, visit = self._home_of_running(task_id), secrets.token_hex(16)
        streams = self._keepers.ask(home, EnterTask(visit=visit, task_id=task_id, command=command), tuple[int, ...])
        return RemoteChannel(
            self._keepers, home, visit, streams, terminal=command.terminal is not None, has_outcome=True
        )

    def connect(self, task_id: str, port: int) -> TaskChannel:
        """Connect to a port of a running task; see the port."""
        home, visit = self._home_of_running(task_id), secrets.token_hex(16)
        streams = self._keepers.ask(home, ConnectTask(visit=visit, task_id=task_id, port=port), tuple[int, ...])
        return RemoteChannel(self._keepers, home, visit, streams, terminal=False, has_outcome=False)

    def _home_of_running(self, task_id: str) -> str:
        placement = self._placements.get(task_id)
        if placement is None or placement.end is not None:
            raise TaskNotThere(f"{task_id} does not run.", next_action="Look at its job: skyloom job show.")
        return self._home(placement)

    @property
    def bridge_pid(self) -> int:
        """Pid of the process that speaks to Ray; 0 when there is none."""
        return self._bridge.bridge_pid

    def close(self) -> None:
        """End the bridge. Tasks, keepers and reservations stay."""
        self._link.close()


def _by_home(placements: Iterable[Placement], nodes: Nodes) -> dict[str, list[Placement]]:
    found: dict[str, list[Placement]] = {}
    for placement in placements:
        found.setdefault(nodes.home(placement.node_id, placement.machine), []).append(placement)
    return found


def _lost_log(offset: int) -> LogSlice:
    """Nothing can be read; whoever begins to read is told why."""
    content = _LOST_LOG[offset:]
    return LogSlice(content=content, next_offset=offset + len(content), total_bytes=max(offset, len(_LOST_LOG)))


def _translated(error: OSError, folder: Path) -> SkyloomError:
    if is_full(error):
        return StorageFull(
            f"No room is left in {folder}: nothing was started.", next_action="Free some space, then try again."
        )
    return Unavailable(
        f"The Ray engine cannot use {folder}: {error.strerror or error}.",
        next_action="Check that the folder exists, is a local disk, and belongs to you.",
    )
