"""Nouns of functions: a service endpoint that sleeps while nobody asks, and calls that are kept until they are done."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cursor, Id, Limit, Name
from skyloom.core.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from skyloom.core.events import Origin
from skyloom.core.money import Money
from skyloom.core.operation import Done, Operation, Page, Right, operation
from skyloom.core.resources import Resources
from skyloom.core.states import Moves
from skyloom.ports.store import Record
from skyloom.rooms.registry.services import ServiceMethod
from skyloom.rooms.secrets.model import SecretUse
from skyloom.rooms.serving.model import EndpointStatus

MAX_WAITING = 1_000
MAX_ANSWER_BYTES = 256 * 2**10
KEEP_S = 86_400.0
KEEP_DEAD_S = 7 * 86_400.0
KEY_ARGUMENT = "idempotency_key"
EVENT_ARGUMENT = "event"

ArgumentsJson = Annotated[str, Meta(min_length=2, max_length=64 * 2**10, description="A JSON object: name → value.")]
CallKey = Annotated[str, Meta(max_length=200, pattern=r"^[\x21-\x7e]*$(?!\n)")]
MethodName = Annotated[str, Meta(max_length=80, pattern=r"^([A-Za-z][A-Za-z0-9_]*)?$(?!\n)")]


class FunctionMissing(NotFound):
    """No such function in this project."""


class FunctionNameTaken(Conflict):
    """An endpoint that is no function has the name."""


class NotAFunction(InvalidInput):
    """What is to be deployed has nothing that could be called."""


class EntryUnclear(InvalidInput):
    """It is not clear which of a function's entries is meant, or it cannot be called this way."""


class ArgumentsUnreadable(InvalidInput):
    """The arguments are no JSON object, or not those of the function."""


class InvocationMissing(NotFound):
    """No such invocation in this project; results are kept for a day, dead letters for a week."""


class TooManyWaiting(LimitExceeded):
    """As many calls of the function wait as may wait."""


class LetterEmpty(Conflict):
    """A dead letter that cannot be sent again, because its arguments made way for others."""


class CallKeyReused(Conflict):
    """A key came back with other arguments."""


class InvocationState(enum.StrEnum):
    """What becomes of one call."""

    QUEUED = "queued"  # it waits for its turn, or for its next attempt
    RUNNING = "running"  # it was sent
    SUCCEEDED = "succeeded"
    DEAD = "dead"  # it was refused, or failed as often as it may: a dead letter, which can be sent again


INVOCATION_MOVES = Moves(
    "invocation",
    {
        InvocationState.QUEUED: (InvocationState.RUNNING, InvocationState.DEAD),
        InvocationState.RUNNING: (InvocationState.QUEUED, InvocationState.SUCCEEDED, InvocationState.DEAD),
        InvocationState.SUCCEEDED: (),
        InvocationState.DEAD: (InvocationState.QUEUED,),
    },
)
ENDED = (InvocationState.SUCCEEDED, InvocationState.DEAD)


class CloudFunction(Record, frozen=True, kw_only=True):
    """A function, as it was asked for last. What it runs is the endpoint of the same name.

    Attributes:
        max_attempts: of an invocation that is queued, the first included.
    """

    name: str
    endpoint_id: str
    max_attempts: int
    created_at: float
    created_by: str


class Invocation(Record, frozen=True, kw_only=True):
    """One call that is kept until it is done, and a while longer.

    It is made at least once: a call whose answer was lost on the way is made again, with the same key. A function that has an argument
    ``idempotency_key`` is told it.

    Attributes:
        function: its name; ``function_id`` is one deployment's of that name, until it is deleted.
        method: which entry of it.
        arguments: a JSON object, as text.
        key: the same key again is the same invocation.
        attempts: how often it was sent.
        next_at: not before, Unix seconds.
        token_id: whose rights it is made with; empty for a task's.
        answer: JSON, as text, once it succeeded; raw bytes as base64. Empty, as ``arguments`` then are, when it made way for newer ones.
        message: why it is where it is.
        trigger: id of the trigger that made it, or "".
        room: in which its arguments and its answer are counted once it ended; "" for none.
    """

    function: str
    function_id: str
    method: str
    arguments: str
    key: str
    state: InvocationState = InvocationState.QUEUED
    attempts: int = 0
    max_attempts: int
    next_at: float
    created_at: float
    created_by: str
    token_id: str
    started_at: float | None = None
    ended_at: float | None = None
    answer: str = ""
    message: str = ""
    trigger: str = ""
    room: str = ""
    cause: Origin


class FunctionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A function and how it does.

    Attributes:
        endpoint: what runs it, its address and revisions.
        methods: what can be called, of the revision that is called now.
        num_calls: that came in while the gateway that stands before it now has run.
        num_waiting, num_dead: queued invocations, and dead letters.
        cost: of its processes that have ended, by the second; ``skyloom cost --by endpoint`` has those that run too.
        jobs: of its newest processes, newest first; what they printed is their log.
    """

    function: CloudFunction
    endpoint: EndpointStatus
    methods: tuple[ServiceMethod, ...] = ()
    num_calls: int = 0
    num_waiting: int = 0
    num_dead: int = 0
    cost: Money = Money(0)
    jobs: tuple[str, ...] = ()


@operation("functions.deploy", Right.RUN, "PUT /functions/{name}")
class DeployFunction(Operation[FunctionStatus], frozen=True, kw_only=True):
    """Put a registered service up as a function: it sleeps while nobody asks. Again, with another version: its next revision.

    Attributes:
        name: of the function, its endpoint, and the registered model.
        version: number of the registered version.
        resources: of each process; None for what it has, at first half a core and 512 MiB.
        max_replicas: processes at most.
        concurrency: calls that one process should have at a time, before another is started.
        idle_s: it goes to sleep after so long without a call.
        max_attempts: of a queued invocation.
        secrets: which of the project's secrets its code gets; None keeps those that it has.
    """

    name: Name
    version: Annotated[int, Meta(ge=1, le=10**9)]
    resources: Resources | None = None
    max_replicas: Annotated[int, Meta(ge=1, le=100)] = 4
    concurrency: Annotated[int, Meta(ge=1, le=1_000)] = 1
    idle_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    max_attempts: Annotated[int, Meta(ge=1, le=20)] = 5
    secrets: Annotated[tuple[SecretUse, ...], Meta(max_length=20)] | None = None


@operation("functions.get", Right.READ, "GET /functions/{name}")
class GetFunction(Operation[FunctionStatus], frozen=True, kw_only=True):
    """Show one function."""

    name: Name


@operation("functions.list", Right.READ, "GET /functions")
class ListFunctions(Operation[Page[FunctionStatus]], frozen=True, kw_only=True):
    """List functions, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


@operation("functions.delete", Right.RUN, "DELETE /functions/{name}")
class DeleteFunction(Operation[Done], frozen=True, kw_only=True):
    """Stop a function and forget it. What waits for it becomes dead letters; its versions stay registered."""

    name: Name


@operation("functions.invoke", Right.PREDICT, "POST /functions/{name}/invocations")
class InvokeFunction(Operation[Invocation], frozen=True, kw_only=True):
    """Queue a call and return at once. It is made at least once; its result is kept for a day, as a dead letter for a week.

    All that a project's ended calls hold is bounded (`SKYLOOM_ANSWER_SIZE`): the oldest answers make way for new ones, and say so.

    Attributes:
        method: the entry that is called; may be left out where there is one.
        key: the same key again gives the same invocation, and no second call.
    """

    name: Name
    method: MethodName = ""
    arguments: ArgumentsJson = "{}"
    key: CallKey = ""


@operation("invocations.get", Right.READ, "GET /invocations/{invocation_id}")
class GetInvocation(Operation[Invocation], frozen=True, kw_only=True):
    """Show one invocation, its answer included."""

    invocation_id: Id


@operation("invocations.list", Right.READ, "GET /invocations")
class ListInvocations(Operation[Page[Invocation]], frozen=True, kw_only=True):
    """List invocations, newest first; of one function, or in one state (``dead`` for the dead letters)."""

    function: Name | None = None
    state: InvocationState | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


@operation("invocations.retry", Right.PREDICT, "POST /invocations/{invocation_id}/retry")
class RetryInvocation(Operation[Invocation], frozen=True, kw_only=True):
    """Send a dead letter again, with the same key and with the rights of who asks now. Anything else is left as it is."""

    invocation_id: Id


OPERATIONS = (
    DeployFunction,
    GetFunction,
    ListFunctions,
    DeleteFunction,
    InvokeFunction,
    GetInvocation,
    ListInvocations,
    RetryInvocation,
)
