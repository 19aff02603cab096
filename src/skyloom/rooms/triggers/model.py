"""Nouns of triggers: what is waited for, what is then run, and each delivery of the one to the other."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cron, Cursor, Limit, Name, TimeZone
from skyloom.core.errors import Conflict, Denied, InvalidInput, LimitExceeded, NotFound
from skyloom.core.events import TriggerEvent
from skyloom.core.operation import Done, Operation, Page, Right, operation
from skyloom.core.states import Moves
from skyloom.ports.store import Record
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.functions.model import InvocationState, MethodName

MAX_TRIGGERS = 200
MAX_DEPTH = 4
MAX_HOOK_BYTES = 32 * 2**10
TOLERANCE_S = 300.0
NUM_KEPT = 100
EVENT_VARIABLE = "SKYLOOM_EVENT"
# Names what the caller of a hook sent; a task finds it in the file that ``SKYLOOM_EVENT_BODY_FILE`` names.
BODY_VARIABLE, BODY_FILE = "SKYLOOM_EVENT_BODY", "EVENT_BODY"


class TriggerMissing(NotFound):
    """No such trigger in this project."""


class TriggerUnclear(InvalidInput):
    """What is asked of a trigger cannot be meant together, or names a field that such events do not have."""


class TooManyTriggers(LimitExceeded):
    """The project has as many triggers as one may have."""


class NothingToRepeat(Conflict):
    """The trigger has no such delivery, or it was no failure."""


class HookRefused(Denied):
    """No trigger listens there, or the call is not signed as it must be. Which of these is not said."""


class HookStale(Denied):
    """The call is signed well, and too old or from the future."""


class HookPaused(Conflict):
    """The trigger is paused or stopped; it takes no calls."""


class TooManyHookCalls(LimitExceeded):
    """The address was called as often within some minutes as its trigger may be set off in an hour."""


class HookRoomFull(LimitExceeded):
    """What was sent to signed addresses and waits for its triggers has all the room that there is for it."""


class HookBodyGone(NotFound):
    """What a caller sent, and a job is to be given, is not kept any more."""


class HookBodyRefused(InvalidInput):
    """The body of a call is too long, or no text."""


class Happening(enum.StrEnum):
    """What can be waited for."""

    DATASET_VERSION = "dataset_version"  # a dataset has a new version
    MODEL_VERSION = "model_version"  # a model has a new version
    JOB_ENDED = "job_ended"  # but not what serves until somebody stops it
    ALERT = "alert"  # one fires (drift, errors, latency), was seen, or is over
    BUDGET = "budget"  # one of its thresholds was reached, or is over
    ROLLBACK = "rollback"  # an endpoint went back to an earlier revision
    CRON = "cron"  # a slot of a cron line came
    HTTP = "http"  # somebody called the trigger's signed address


FIELDS: dict[Happening, tuple[str, ...]] = {
    Happening.DATASET_VERSION: ("dataset", "version", "job"),
    Happening.MODEL_VERSION: ("model", "version"),
    Happening.JOB_ENDED: ("job", "name", "state", "reason", "user"),
    Happening.ALERT: ("alert", "about", "signal", "state"),
    Happening.BUDGET: ("budget", "threshold", "over"),
    Happening.ROLLBACK: ("endpoint", "revision", "automatic"),
    Happening.CRON: ("slot",),
    Happening.HTTP: (),
}
"""The facts of each, which filters may look at."""

FieldName = Annotated[str, Meta(min_length=1, max_length=40)]
Pattern = Annotated[
    str, Meta(min_length=1, max_length=200, description="A value, or its beginning and a star: drift*.")
]


class When(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is waited for.

    Attributes:
        where: field → what it must be, or begin with (``digits-*``); all of them must hold.
        cron, time_zone: of a clock. Slots that go by while nobody looks are one event.
    """

    kind: Happening
    where: Annotated[dict[FieldName, Pattern], Meta(max_length=10)] = {}
    cron: Cron | None = None
    time_zone: TimeZone = "UTC"


class RunFunction(msgspec.Struct, frozen=True, kw_only=True, tag="function", tag_field="type", omit_defaults=True):
    """Call a function with the argument ``event`` (`TriggerEvent`), as a queued call: tried again, at last a dead letter."""

    function: Name
    method: MethodName = ""


class RunTemplateJob(
    msgspec.Struct, frozen=True, kw_only=True, tag="job-template", tag_field="type", omit_defaults=True
):
    """Run a job of a template as it is applied then; the variable ``SKYLOOM_EVENT`` is the event, as JSON.

    What the caller of a hook sent is not part of it, but a private file of each task, which ``SKYLOOM_EVENT_BODY_FILE`` names: the record
    of a job is kept for ever, that file no longer than the task.

    Attributes:
        job: which of its jobs; may be left out where there is one.
    """

    template: Name
    job: Name | None = None


class RunBatch(msgspec.Struct, frozen=True, kw_only=True, tag="batch", tag_field="type", omit_defaults=True):
    """Predict a dataset. Set off by a version of that very dataset, it is that version which is predicted."""

    order: BatchOrder


Run = RunFunction | RunTemplateJob | RunBatch


class TriggerState(enum.StrEnum):
    """What a trigger is doing."""

    ACTIVE = "active"
    PAUSED = "paused"  # somebody asked for it, or it ran away; events wait
    STOPPED = "stopped"  # who made it lost the right, or what it runs is gone; events wait


TRIGGER_MOVES = Moves(
    "trigger",
    {
        TriggerState.ACTIVE: (TriggerState.PAUSED, TriggerState.STOPPED),
        TriggerState.PAUSED: (TriggerState.ACTIVE,),
        TriggerState.STOPPED: (TriggerState.ACTIVE, TriggerState.PAUSED),
    },
)


class Trigger(Record, frozen=True, kw_only=True):
    """When something happens, something is run: at least once for each event, in the order in which they happened.

    Attributes:
        created_by: who made it; ``owner`` is with whose rights it acts, by the token ``token_id``: who made or resumed it last.
        cursor: number of the newest event that was dealt with.
        next_slot_at: of a clock, Unix seconds.
        waits_for: the queued call that has to end before the next event is delivered.
        num_delivered, num_refused, num_cut: events that were delivered; whose delivery was refused; and that were passed over because
            too many triggers stood before them.
        hour_at, num_in_hour: deliveries since then, against ``max_per_hour``.
        message: why it does nothing, or what went wrong last.
    """

    name: str
    when: When
    run: Run
    max_per_hour: int
    created_at: float
    created_by: str
    owner: str
    token_id: str
    state: TriggerState = TriggerState.ACTIVE
    cursor: int
    next_slot_at: float | None = None
    waits_for: str = ""
    num_delivered: int = 0
    num_refused: int = 0
    num_cut: int = 0
    hour_at: float = 0.0
    num_in_hour: int = 0
    message: str = ""


class Delivery(Record, frozen=True, kw_only=True):
    """One event that a trigger dealt with. Its id is the trigger's and the number of the event.

    Attributes:
        number: of the event in the log.
        event: what was told, without the body that a caller sent.
        began: id of the queued call or the job; empty where it was refused.
        message: why it was refused.
        body_id: of the body that the caller sent; it is kept while it was not delivered.
    """

    trigger_id: str
    number: int
    at: float
    event: TriggerEvent
    began: str = ""
    message: str = ""
    body_id: str = ""


class DeliveryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery and what became of it.

    Attributes:
        state: of the queued call; None where a job was begun, which tells its own.
    """

    delivery: Delivery
    state: InvocationState | None = None


class TriggerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger and what it did.

    Attributes:
        hook: path of its signed address at the control plane, of one that waits for calls.
        deliveries: the newest first.
    """

    trigger: Trigger
    hook: str = ""
    deliveries: tuple[DeliveryStatus, ...] = ()


class IssuedTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """A new trigger. One with a signed address has a secret, which is shown this once."""

    trigger: Trigger
    hook: str = ""
    secret: str = ""


@operation("triggers.create", Right.RUN, "POST /triggers")
class CreateTrigger(Operation[IssuedTrigger], frozen=True, kw_only=True):
    """Run something whenever something happens, from now on, with your own rights.

    A call of a signed address carries ``Skyloom-Signature: t=<unix seconds>,v1=<hex>``: the HMAC-SHA256 of ``<t>.<body>`` with the secret.
    It is good for five minutes, and the same call again is the same event. The body is JSON, as text that what is run reads itself.
    More than ``max_per_hour`` calls within ten minutes are refused: they would wait where nobody comes to them.

    Attributes:
        max_per_hour: one that runs away is paused.
    """

    name: Name
    when: When
    run: Run
    max_per_hour: Annotated[int, Meta(ge=1, le=100_000)] = 600


@operation("triggers.get", Right.READ, "GET /triggers/{name}")
class GetTrigger(Operation[TriggerStatus], frozen=True, kw_only=True):
    """Show a trigger and its newest deliveries."""

    name: Name


@operation("triggers.list", Right.READ, "GET /triggers")
class ListTriggers(Operation[Page[Trigger]], frozen=True, kw_only=True):
    """List triggers, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


@operation("triggers.pause", Right.RUN, "POST /triggers/{name}/pause")
class PauseTrigger(Operation[Trigger], frozen=True, kw_only=True):
    """Run nothing more until it is resumed; what happens meanwhile waits. Safe to repeat."""

    name: Name


@operation("triggers.resume", Right.RUN, "POST /triggers/{name}/resume")
class ResumeTrigger(Operation[Trigger], frozen=True, kw_only=True):
    """Go on where it was, from now on with the rights of who asks. Safe to repeat.

    Attributes:
        skip: pass over what has happened meanwhile.
    """

    name: Name
    skip: bool = False


@operation("triggers.redeliver", Right.RUN, "POST /triggers/{name}/redeliver")
class Redeliver(Operation[DeliveryStatus], frozen=True, kw_only=True):
    """Deliver again what was refused; its call, if that is a dead letter, is sent again."""

    name: Name
    number: Annotated[int, Meta(ge=1, le=2**53)]


@operation("triggers.delete", Right.RUN, "DELETE /triggers/{name}")
class DeleteTrigger(Operation[Done], frozen=True, kw_only=True):
    """Forget a trigger. What it began goes on."""

    name: Name


OPERATIONS = (CreateTrigger, GetTrigger, ListTriggers, PauseTrigger, ResumeTrigger, Redeliver, DeleteTrigger)
