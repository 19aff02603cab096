"""How a gang starts on a cluster: reserve, decide who meets whom where, write that down, prepare on every node, start on every node.

A crash between any two of these is mended by launching again: the reservation has the gang's name, what was written down stands,
and every node leaves alone what it has.
"""

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.engines.local.prepare import LaunchRefused, Place, check_source
from skyloom.engines.ray.asks import Greeting, Observe, Prepare, Refuse, Rendezvous, StartTasks
from skyloom.engines.ray.keepers import Keepers
from skyloom.engines.ray.link import ANSWER_S, Questions
from skyloom.engines.ray.placements import Placement, Placements
from skyloom.engines.ray.shared import NotShared, SharedFolder
from skyloom.engines.ray.wire import Bundle, Release, Reserve, Reserved, ShipFile
from skyloom.ports.engine import GangPlan, NoRoomNow, Observation, TaskPlan

_RESERVE_S = 2.0
_SHIP_BYTES_PER_S = 5e6
_PREPARE_S = 30.0  # copies and disk syncs; that the node answers at all was seen before
_PING_S = 3.0


class Gangs:
    """Starts gangs. Not thread-safe: the engine's launch lock guards it.

    Args:
        url: of the control plane as nodes reach it; empty leaves what the plan says.
        make_room: gives back what gangs hold that are over, before the cluster is said to be full.
    """

    def __init__(
        self,
        link: Questions,
        keepers: Keepers,
        placements: Placements,
        shared: SharedFolder,
        *,
        engine_id: str,
        url: str,
        make_room: Callable[[], None],
    ) -> None:
        self._link = link
        self._keepers = keepers
        self._placements = placements
        self._shared = shared
        self._engine_id = engine_id
        self._url = url
        self._make_room = make_room

    def start(self, gang: GangPlan, absent: Sequence[str]) -> None:
        """Start the tasks of a gang that never ran. Raises `Unavailable`, `StorageFull` and ``OSError``; then none of these was
        started, as far as anybody knows: a node that fell silent while it was told to start them may have, so they keep their room."""
        try:
            placed = self._place(gang)
            by_node: dict[str, list[TaskPlan]] = {}
            for task in gang.tasks:
                if task.task_id in absent:
                    by_node.setdefault(placed[task.task_id].node_id, []).append(task)
            refusal = self._prepare(gang, by_node, placed)
        except (SkyloomError, OSError):
            with contextlib.suppress(SkyloomError):
                self._link.ask(Release(names=(gang.gang_id,)), tuple[()])
            raise
        self._begin({node_id: tuple(task.task_id for task in tasks) for node_id, tasks in by_node.items()}, refusal)

    # --- where -----------------------------------------------------------------------------------------------------------------

    def _place(self, gang: GangPlan) -> dict[str, Placement]:
        """Reserve, and write down where each task goes: as it was decided, where it was."""
        earlier = {task.task_id: self._placements.get(task.task_id) for task in gang.tasks}
        reserved = self._reserve(gang, [self._wanted(task, earlier[task.task_id]) for task in gang.tasks])
        # What an earlier try reserved was given back, and Ray may have set aside other GPUs this time.
        stale = [found for found in earlier.values() if found and found.place.gpus != _gpus_on(found.node_id, reserved)]
        if stale:
            self._check_unheard(gang, stale)
            earlier |= dict.fromkeys((found.task_id for found in stale), None)
        missing = [task_id for task_id, placement in earlier.items() if placement is None]
        if missing:
            greetings = self._keepers.greet(list(dict.fromkeys(reserved.node_ids)))
            made = self._decide(gang, reserved, greetings, [found for found in earlier.values() if found])
            self._placements.write([made[task_id] for task_id in missing])
        return {task.task_id: self._written(task.task_id) for task in gang.tasks}

    def _check_unheard(self, gang: GangPlan, placements: Sequence[Placement]) -> None:
        """Raises `NoRoomNow` when a node has prepared one of these: it would run on GPUs that are somebody else's now."""
        greetings = self._keepers.greet(list({found.node_id for found in placements}), again=True)
        if any(found.task_id in greetings[found.node_id].known for found in placements):
            raise NoRoomNow(
                f"Gang {gang.gang_id} was prepared for other GPUs than those that are free now.",
                next_action="It is tried again until they are.",
            )

    def _written(self, task_id: str) -> Placement:
        placement = self._placements.get(task_id)
        assert placement is not None
        return placement

    def _wanted(self, task: TaskPlan, earlier: Placement | None) -> str:
        """The node that a task must go to; empty when Ray may choose."""
        if earlier is not None:
            return earlier.node_id
        if not task.machine:
            return ""
        node = self._keepers.nodes().named(task.machine)
        if node is None:
            raise NoRoomNow(
                f"The pool has no machine {task.machine} now.",
                next_action="It is tried again; see the pool's machines.",
            )
        return node.node_id

    def _reserve(self, gang: GangPlan, wanted: Sequence[str]) -> Reserved:
        pairs = zip(gang.tasks, wanted, strict=True)
        bundles = tuple(Bundle(resources=task.resources, node_id=node_id) for task, node_id in pairs)
        ask = Reserve(name=gang.gang_id, bundles=bundles, timeout_s=_RESERVE_S)
        reserved = self._link.ask(ask, Reserved)
        if not reserved.node_ids:
            self._make_room()
            reserved = self._link.ask(ask, Reserved)
        if not reserved.node_ids:
            where = f" on {', '.join(sorted({task.machine for task in gang.tasks if task.machine}))}" * bool(
                any(wanted)
            )
            raise NoRoomNow(
                f"The Ray cluster has no room for gang {gang.gang_id}{where} now.",
                next_action="It is tried again; somebody else may be using the cluster.",
            )
        return reserved

    def _decide(
        self, gang: GangPlan, reserved: Reserved, greetings: Mapping[str, Greeting], earlier: Sequence[Placement]
    ) -> dict[str, Placement]:
        """Places by task: ranks count through each node, and all meet at rank 0's node."""
        node_ids, nodes = reserved.node_ids, self._keepers.nodes()
        spans = len(set(node_ids)) > 1
        first = nodes.get(node_ids[0])
        host = first.address if spans and first else "127.0.0.1"
        port = earlier[0].place.port if earlier else self._keepers.ask(node_ids[0], Rendezvous(host=host), int)
        made = {}
        for rank, task in enumerate(gang.tasks):
            node = nodes.get(node_ids[rank])
            if node is None:
                raise NoRoomNow("The nodes changed while a gang was placed.", next_action="It is tried again.")
            peers = [index for index, node_id in enumerate(node_ids) if node_id == node.node_id]
            place = Place(
                rank=rank,
                world_size=len(gang.tasks),
                port=port,
                gpus=_gpus_on(node.node_id, reserved),
                local_rank=peers.index(rank),
                local_world_size=len(peers),
                host=host,
                interface=greetings[node.node_id].interface if spans else "lo",
            )
            made[task.task_id] = Placement(
                task_id=task.task_id,
                reservation=gang.gang_id,
                node_id=node.node_id,
                machine=node.machine,
                place=place,
                lease_s=greetings[node.node_id].lease_s,
            )
        return made

    # --- bring -----------------------------------------------------------------------------------------------------------------

    def _begin(self, by_node: Mapping[str, tuple[str, ...]], refusal: str) -> None:
        if refusal:
            refuse = {node_id: Refuse(task_ids=names, why=refusal) for node_id, names in by_node.items()}
            _all_sure(self._keepers.ask_all(refuse, None))
            return
        start = {node_id: StartTasks(task_ids=names) for node_id, names in by_node.items()}
        answers = self._keepers.ask_all(start, None)
        # Where some started, the launch stands; the others are seen as absent, and launched again.
        if all(isinstance(answer, Exception) for answer in answers.values()):
            _all_sure(answers)

    def _prepare(self, gang: GangPlan, by_node: Mapping[str, list[TaskPlan]], placed: Mapping[str, Placement]) -> str:
        """Make all folders on all nodes; returns why not, when one task is bad."""
        try:
            self._shared.check([placement.node_id for placement in placed.values()])
            for tasks in by_node.values():
                for task in tasks:
                    _check(task)
        except NotShared as error:
            return f"{gang.tasks[0].task_id}: {error}"
        except LaunchRefused as refusal:
            return str(refusal)
        ping = {node_id: Observe(task_ids=()) for node_id in by_node}
        _all_sure(self._keepers.ask_all(ping, dict[str, Observation], _PING_S))
        questions = {}
        for node_id, tasks in by_node.items():
            sent = self._ship(node_id, tasks)
            plans = tuple(self._as_seen_there(task, sent) for task in tasks)
            places = tuple(placed[task.task_id].place for task in tasks)
            questions[node_id] = Prepare(tasks=plans, places=places)
        answers = self._keepers.ask_all(questions, str, _PREPARE_S)
        _all_sure(answers)
        return next((why for why in answers.values() if why), "")

    def _ship(self, node_id: str, tasks: Sequence[TaskPlan]) -> dict[str, str]:
        """Send every file that the tasks need to their node, once; returns source → upload."""
        sent: dict[str, str] = {}
        for source in dict.fromkeys(path for task in tasks for path in task.files.values()):
            sent[source] = secrets.token_hex(16)
            timeout_s = ANSWER_S + Path(source).stat().st_size / _SHIP_BYTES_PER_S
            ship = ShipFile(node_id=node_id, source=source, upload=sent[source], timeout_s=timeout_s)
            self._link.ask(ship, tuple[()], timeout_s + 3.0)
        return sent

    def _as_seen_there(self, task: TaskPlan, sent: Mapping[str, str]) -> TaskPlan:
        """The plan with paths and addresses that mean something on the node."""
        changes: dict[str, Any] = {"files": {path: sent[source] for path, source in task.files.items()}}
        if task.shared_folder:
            name = Path(task.shared_folder).name
            root = self._shared.path
            changes["shared_folder"] = str(Path(root) / self._engine_id / name) if root else name
        if self._url and "SKYLOOM_URL" in task.environment:
            changes["environment"] = {**task.environment, "SKYLOOM_URL": self._url}
        return msgspec.structs.replace(task, **changes)


def _gpus_on(node_id: str, reserved: Reserved) -> tuple[int, ...]:
    """What a gang holds on a node, in rank order."""
    pairs = zip(reserved.node_ids, reserved.gpus, strict=True)
    return tuple(gpu for other, gpus in pairs if other == node_id for gpu in gpus)


def _check(task: TaskPlan) -> None:
    """Raises `LaunchRefused` for a plan that a node could not even read, or whose files are not there to be sent."""
    try:
        for relative, source in task.files.items():
            check_source(Path(source), relative)
        msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=TaskPlan)
    except LaunchRefused as refusal:
        raise LaunchRefused(f"{task.task_id}: {refusal}") from None
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        said = msgspec.structs.astuple(task.entry)[0] or "the command is empty"
        raise LaunchRefused(f"{task.task_id}: {said!r} cannot be run: {error}") from None


def _all_sure(answers: Mapping[str, Any]) -> None:
    for answer in answers.values():
        if isinstance(answer, Exception):
            raise answer
