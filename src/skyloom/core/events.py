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


EventBody = TaskEnded | Moved | Noted | BudgetReached | JobEnded


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the event log.

    Attributes:
        at: Unix seconds.
        subject: id of the thing it happened to.
    """

    at: float
    project: str
    subject: str
    body: EventBody
