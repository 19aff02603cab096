"""Events: what happened, written in the same transaction as the change itself (an outbox).

News travels upward as events and never as an import: `jobs` says ``TaskEnded``, `cost` prices it without knowing jobs.
An event is also evidence: ``skyloom why`` reads them. Losing, repeating or reordering events never changes a final state.
"""

import msgspec

from skyloom.core.resources import Resources


class TaskEnded(msgspec.Struct, frozen=True, kw_only=True, tag="task_ended"):
    """One attempt of one task is over. Its whole life is metered, from process start to last descendant gone.

    Attributes:
        pool: where it ran.
    """

    job_id: str
    task_id: str
    pool: str = "local"
    resources: Resources
    started_at: float
    ended_at: float
    labels: dict[str, str] = {}


class Moved(msgspec.Struct, frozen=True, kw_only=True, tag="moved"):
    """A thing changed its state."""

    before: str
    after: str
    reason: str = ""
    message: str = ""


class Noted(msgspec.Struct, frozen=True, kw_only=True, tag="noted"):
    """Something worth knowing later, in words."""

    message: str


class BudgetReached(msgspec.Struct, frozen=True, kw_only=True, tag="budget_reached"):
    """A budget is used up to one of its thresholds, said once a period; or, when it is ``over``, it is below it again.

    Attributes:
        budget: what people call it.
        threshold: a share of the limit.
        share: how much of it is used.
    """

    budget: str
    threshold: float
    share: float
    message: str
    over: bool = False


class JobEnded(msgspec.Struct, frozen=True, kw_only=True, tag="job_ended"):
    """A job is over for good: no other attempt follows."""

    state: str
    reason: str = ""
    message: str = ""


class DatasetVersionMade(msgspec.Struct, frozen=True, kw_only=True, tag="dataset_version_made"):
    """A dataset has a new version, for everybody to read. The subject is the dataset."""

    dataset: str
    number: int
    job_id: str = ""


class ModelRegistered(msgspec.Struct, frozen=True, kw_only=True, tag="model_registered"):
    """A model has a new version. The subject is the version."""

    model: str
    number: int


class EndpointRolledBack(msgspec.Struct, frozen=True, kw_only=True, tag="endpoint_rolled_back"):
    """All of an endpoint's traffic goes back to an earlier revision. The subject is the endpoint.

    Attributes:
        automatic: a canary went back by itself; otherwise somebody asked for it.
    """

    endpoint: str
    revision: int
    automatic: bool = False


class SlotCame(msgspec.Struct, frozen=True, kw_only=True, tag="slot_came"):
    """A slot of a trigger's cron line came. The subject is the trigger.

    Attributes:
        slot: Unix seconds.
    """

    slot: float


class HookCalled(msgspec.Struct, frozen=True, kw_only=True, tag="hook_called"):
    """Somebody called the signed address of a trigger. The subject is the trigger.

    Attributes:
        body_id: of what was sent, which is kept for a shorter time than this.
        body: what was sent, as text, of events from before bodies were kept apart.
    """

    body_id: str = ""
    body: str = ""


EventBody = (
    TaskEnded
    | Moved
    | Noted
    | BudgetReached
    | JobEnded
    | DatasetVersionMade
    | ModelRegistered
    | EndpointRolledBack
    | SlotCame
    | HookCalled
)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What made somebody act who is no person: one delivery of a trigger.

    Attributes:
        id: of the delivery.
        depth: how many triggers stand between this and what nobody's trigger began; bounded, so that a loop of triggers ends.
    """

    id: str
    depth: int


class TriggerEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a trigger tells what it runs: the argument ``event`` of a function, the variable ``SKYLOOM_EVENT`` of a job, as JSON.

    Attributes:
        id: the same each time that this is delivered: whoever has seen it does nothing more.
        kind: ``dataset_version``, ``model_version``, ``job_ended``, …
        at: Unix seconds when it happened.
        subject: id of the thing that it happened to.
        facts: the fields that filters look at.
        body: what the caller of a hook sent; a job finds it in the file that ``SKYLOOM_EVENT_BODY_FILE`` names.
        cause: of what is done because of it; see ``skyloom.connect(because=…)``.
        depth: how many triggers stand before what is done, this one included.
    """

    id: str
    kind: str
    trigger: str
    at: float
    subject: str
    facts: dict[str, str] = {}
    body: str = ""
    cause: str = ""
    depth: int = 1


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the event log.

    Attributes:
        at: Unix seconds.
        subject: id of the thing it happened to.
        cause: the delivery of a trigger that this came of, if it did.
    """

    at: float
    project: str
    subject: str
    body: EventBody
    cause: Origin | None = None
