"""What an engine asks of a node's keeper, and what it answers. Plain data, encoded with msgspec."""

import msgspec

from skyloom.core.errors import ErrorBody
from skyloom.engines.local.prepare import Place
from skyloom.ports.channel import GuestCommand, Size
from skyloom.ports.engine import TaskPlan


class KeeperPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What every keeper of an engine is told when it is made.

    Attributes:
        engine_id: names its folder on the node.
        node_folder: folder on each node below which task folders are kept; ``~`` is the home of the user that Ray runs as.
        lease_s: how long tasks go on without news from the cluster's head.
        warm: keep a process with the training imports done.
        version: of Skyloom, which must be the same on both sides.
        idle_s: it leaves after so long without a question and without a task; 0 for never.
    """

    engine_id: str
    node_folder: str
    lease_s: float
    warm: bool
    version: str
    idle_s: float = 0.0


class Greet(msgspec.Struct, frozen=True, tag="greet"):
    """Answer: `Greeting`."""


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers on a node.

    Attributes:
        version: its Skyloom's.
        known: ids of all tasks that it holds files of.
        interface: the network interface that has the node's address; empty when none has.
        lease_s: what the keeper was told when it was made; it lives longer than the control plane that made it.
    """

    version: str
    known: tuple[str, ...]
    interface: str
    lease_s: float


class Rendezvous(msgspec.Struct, frozen=True, kw_only=True, tag="rendezvous"):
    """Answer: a port of an address of this node that nobody uses, as an integer."""

    host: str


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """Make the folders of a gang's tasks on this node, those that are missing; start nothing.

    The plans' ``files`` name uploads. Answer: why it is refused, and then no folder was made; empty when all is ready.
    """

    tasks: tuple[TaskPlan, ...]
    places: tuple[Place, ...]


class Refuse(msgspec.Struct, frozen=True, kw_only=True, tag="refuse"):
    """End tasks that never started as LAUNCH_FAILED; those that have a record keep it. Answer: nothing."""

    task_ids: tuple[str, ...]
    why: str


class StartTasks(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """Start the supervisors of prepared tasks that never ran. Answer: nothing."""

    task_ids: tuple[str, ...]


class Observe(msgspec.Struct, frozen=True, kw_only=True, tag="observe"):
    """Answer: an `Observation` for each id."""

    task_ids: tuple[str, ...]


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """Answer: nothing."""

    task_ids: tuple[str, ...]
    force: bool


class ReadTaskLog(msgspec.Struct, frozen=True, kw_only=True, tag="read_log"):
    """Answer: a `LogSlice` of at most `MAX_PIECE_BYTES`."""

    task_id: str
    offset: int
    limit: int


class ReadTaskResult(msgspec.Struct, frozen=True, kw_only=True, tag="read_result"):
    """Answer: the bytes, or None."""

    task_id: str


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag="forget"):
    """Answer: nothing."""

    task_ids: tuple[str, ...]


class Upload(msgspec.Struct, frozen=True, kw_only=True, tag="upload"):
    """Write a piece of a file that tasks will get. Answer: nothing."""

    name: str
    offset: int
    content: bytes
    is_program: bool


class HasFolder(msgspec.Struct, frozen=True, kw_only=True, tag="has_folder"):
    """Answer: whether this folder is here, and tasks may write into it."""

    folder: str


class LeaveMark(msgspec.Struct, frozen=True, kw_only=True, tag="leave_mark"):
    """Write a word into a new file of the shared folder. Answer: nothing."""

    folder: str
    word: str


class SeesMark(msgspec.Struct, frozen=True, kw_only=True, tag="sees_mark"):
    """Answer: whether the word that another node left can be read here."""

    folder: str
    word: str


class RemoveMark(msgspec.Struct, frozen=True, kw_only=True, tag="remove_mark"):
    """Answer: nothing."""

    folder: str
    word: str


class EnterTask(msgspec.Struct, frozen=True, kw_only=True, tag="enter_task"):
    """Open a channel, which the keeper holds under the name ``visit``; asked twice, it is the same one. Answer: the streams that
    come from it."""

    visit: str
    task_id: str
    command: GuestCommand


class ConnectTask(msgspec.Struct, frozen=True, kw_only=True, tag="connect_task"):
    """As `EnterTask`, to a port."""

    visit: str
    task_id: str
    port: int


class KeeperExchange(msgspec.Struct, frozen=True, kw_only=True, tag="exchange"):
    """Give bytes to a visit, and take what it has if somebody listens. Answer: `KeeperHeard`.

    Each has a ``number`` of its own: one that comes twice moves nothing again and gets the same answer.
    """

    visit: str
    number: int
    given: bytes
    ends: bool
    size: Size | None
    listens: bool


class LeaveTask(msgspec.Struct, frozen=True, kw_only=True, tag="leave_task"):
    """Answer: nothing."""

    visit: str


KeeperAsk = (
    Greet
    | Rendezvous
    | Prepare
    | Refuse
    | StartTasks
    | Observe
    | Stop
    | ReadTaskLog
    | ReadTaskResult
    | Forget
    | Upload
    | HasFolder
    | LeaveMark
    | SeesMark
    | RemoveMark
    | EnterTask
    | ConnectTask
    | KeeperExchange
    | LeaveTask
)

MAX_PIECE_BYTES = 4 * 2**20


class KeeperAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A keeper's answer, encoded, or the error that it raised."""

    content: bytes = b""
    error: ErrorBody | None = None
