"""Pure decisions of serving: which replicas to start, to stop and to write off, and what an endpoint is doing.

Snapshot in, plan out. No clock, store, engine or network is known here. The plan is computed anew each time from what is true then, so
a lost or repeated step changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from skyloom.ports.store import changed
from skyloom.rooms.jobs.model import ENDED, JobState
from skyloom.rooms.serving.model import Endpoint, EndpointState, Replica, ReplicaState
from skyloom.rooms.serving.split import Canary

FAILURE_WINDOW_S = 300.0
LOOP_FAILURES = 5
SILENT_S = 60.0
SETTLED_S = 10.0
_FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
PAUSE_BESIDE_OTHERS_S = 1.0


@dataclass(frozen=True)
class Seen:
    """One replica that has not been written off, and what is known of it now.

    Attributes:
        job: state of its job; None when the job is gone.
        ready: it said lately that it takes requests.
        silent_s: for how long a running replica has said nothing.
        waits: its job waits for resources.
        port: where it said that it takes requests; 0 while it has not said so.
        last_words: why the job ended, with the end of its output.
        gpu: how busy its GPUs are, 0 to 1; None where nobody says.
    """

    replica: Replica
    job: JobState | None
    ready: bool = False
    silent_s: float = 0.0
    waits: bool = False
    last_words: str = ""
    port: int = 0
    gpu: float | None = None

    @property
    def ended(self) -> bool:
        return self.job is None or self.job in ENDED

    @property
    def wanted(self) -> bool:
        """It should go on serving."""
        return not self.ended and self.replica.stopped_at is None

    @property
    def answers(self) -> bool:
        return self.wanted and self.ready

    @property
    def state(self) -> ReplicaState:
        if self.ended:
            return ReplicaState.ENDED
        if self.replica.stopped_at is not None:
            return ReplicaState.STOPPING
        return ReplicaState.READY if self.ready else ReplicaState.STARTING


@dataclass(frozen=True)
class ReplicaStart:
    """Replicas of one revision to start.

    Attributes:
        private: they stand behind a gateway, at ports of their own.
    """

    number: int
    private: bool
    count: int


@dataclass(frozen=True)
class Steps:
    """What to do now.

    Attributes:
        ended: records to write: replicas whose job is over.
        stop: records to write: replicas that are told to stop; their jobs are cancelled in the same transaction.
        starts: replicas to start.
        wait_s: seconds until a start that is held back is due; None when nothing is.
        drop_fallback: what is kept for going back has to make room.
    """

    ended: tuple[Replica, ...] = ()
    stop: tuple[Replica, ...] = ()
    starts: tuple[ReplicaStart, ...] = ()
    wait_s: float | None = None
    drop_fallback: bool = False

    @property
    def num_starts(self) -> int:
        """How many replicas to start, of all revisions."""
        return sum(start.count for start in self.starts)

    @property
    def nothing(self) -> bool:
        return not (self.ended or self.stop or self.starts or self.drop_fallback)


@dataclass(frozen=True)
class Situation:
    """Everything a decision about one endpoint needs.

    Attributes:
        seen: replicas that have not been written off.
        failures: replicas written off as failed, of any revision.
        listens: the project's gateway listens for it.
        canary: the newest one, live or not.
    """

    endpoint: Endpoint
    seen: Sequence[Seen] = ()
    failures: Sequence[Replica] = field(default=())
    listens: bool = False
    canary: Canary | None = None


def reconcile(now_is: Situation, now: float) -> Steps:
    """Decide the next steps of one endpoint."""
    endpoint = now_is.endpoint
    ended = tuple(written_off(item, now) for item in now_is.seen if item.ended)
    failures = [*now_is.failures, *(replica for replica in ended if replica.failed)]
    if endpoint.stopped_by:
        stop = tuple(told(item, now) for item in now_is.seen if item.wanted)
        return Steps(ended=ended, stop=stop)
    silent = [item for item in now_is.seen if item.wanted and item.silent_s > SILENT_S]
    alive = [item for item in now_is.seen if item.wanted and item not in silent]
    current = [item for item in alive if item.replica.revision_number == endpoint.current]
    old = [item for item in alive if item.replica.revision_number != endpoint.current]
    stopping = any(item.state is ReplicaState.STOPPING for item in now_is.seen)
    pause_s = pause_left(endpoint.current, failures, now, others_answer=any(item.answers for item in current))
    missing = max(0, endpoint.num_replicas - len(current))
    to_stop = [hung(item, now) for item in silent]
    to_stop += [
        told(item, now)
        for item in (*surplus(current, endpoint.num_replicas), *outdated(current, old, endpoint, stopping))
    ]
    return Steps(
        ended=ended,
        stop=tuple(to_stop),
        starts=(ReplicaStart(endpoint.current, False, missing),) if missing and pause_s <= 0 else (),
        wait_s=pause_s if missing and pause_s > 0 else None,
    )


def state_of(now_is: Situation, now: float) -> tuple[EndpointState, str, str]:
    """What an endpoint is doing, in a word; why, in a sentence; what to do about it."""
    endpoint = now_is.endpoint
    alive = [item for item in now_is.seen if not item.ended]
    if endpoint.stopped_by:
        return (EndpointState.STOPPING if alive else EndpointState.STOPPED), f"Stopped by {endpoint.stopped_by}.", ""
    answering = [item for item in alive if item.answers]
    current = [item for item in answering if item.replica.revision_number == endpoint.current]
    if len(current) >= endpoint.num_replicas:
        return EndpointState.READY, "", ""
    failed = recent_failures(endpoint.current, now_is.failures, now)
    early = early_failures(endpoint.current, now_is.failures, now)
    if len(early) >= LOOP_FAILURES and not current:
        return (
            EndpointState.CRASH_LOOP,
            f"Replicas of revision {endpoint.current} ended {len(early)} times within {FAILURE_WINDOW_S:.0f} s: {early[-1].message}",
            f"Read all it said: skyloom job logs {early[-1].job_id}. Mend that and deploy again, or stop it: skyloom endpoint stop "
            f"{endpoint.name}.",
        )
    message = f"{len(current)} of {endpoint.num_replicas} replicas of revision {endpoint.current} answer."
    action = "Wait a moment."
    if any(item.waits for item in alive):
        message += " A replica waits for resources."
        action = "Stop something that holds them (skyloom job list), or deploy with less (--cpus, --memory)."
    elif failed:
        message += f" The last one that failed: {failed[-1].message}"
    return (EndpointState.DEGRADED if answering else EndpointState.STARTING), message, action


def recent_failures(number: int, failures: Sequence[Replica], now: float) -> list[Replica]:
    """Those of one revision within the window, oldest first."""
    recent = [
        replica
        for replica in failures
        if replica.revision_number == number and (replica.ended_at or now) > now - FAILURE_WINDOW_S
    ]
    return sorted(recent, key=lambda replica: replica.ended_at or now)


def early_failures(number: int, failures: Sequence[Replica], now: float) -> list[Replica]:
    """Recent failures that look like the revision's own fault: all but those of replicas that had answered for a while."""
    return [replica for replica in recent_failures(number, failures, now) if not _had_settled(replica)]


def _had_settled(replica: Replica) -> bool:
    return replica.worked and (replica.ended_at or 0.0) - replica.created_at >= SETTLED_S


def pause_left(number: int, failures: Sequence[Replica], now: float, *, others_answer: bool) -> float:
    """Seconds for which no replica of a revision is started.

    Args:
        others_answer: replicas of the revision do, so it can run: what died is replaced soon, before the next one does.
    """
    ends = [replica.ended_at or now for replica in early_failures(number, failures, now)]
    return pause_after(ends, now, PAUSE_BESIDE_OTHERS_S if others_answer else LONGEST_PAUSE_S)


def pause_after(ends: Sequence[float], now: float, longest_s: float = LONGEST_PAUSE_S) -> float:
    """A first failure is mended at once; each further one doubles the pause. ``ends`` are the moments of the recent ones, in order."""
    if len(ends) < 2:
        return 0.0
    pause_s = min(longest_s, _FIRST_PAUSE_S * 2.0 ** (len(ends) - 2))
    # A clock that was set back must not hold a start for longer than the pause.
    return min(pause_s, ends[-1] + pause_s - now)


def surplus(current: Sequence[Seen], num_replicas: int) -> Sequence[Seen]:
    """Replicas beyond what was asked for: those that do not answer first, then the youngest."""
    return sorted(current, key=lambda item: (not item.ready, item.replica.created_at, item.replica.id))[num_replicas:]


def outdated(current: Sequence[Seen], old: Sequence[Seen], endpoint: Endpoint, stopping: bool) -> Sequence[Seen]:
    """Old replicas that are not needed any more: as many must answer, new and old together, as were asked for.

    Where the machine has no room for both, one old one at a time goes for a new one that waits, as long as another still answers.
    """
    num_new = sum(item.answers for item in current)
    keep = max(0, endpoint.num_replicas - num_new)
    ranked = sorted(old, key=lambda item: (not item.answers, item.replica.id))
    num_old_answering = sum(item.answers for item in old)
    if not stopping and any(item.waits for item in current) and num_old_answering + num_new > 1:
        keep = min(keep, max(0, len(ranked) - 1))
    return ranked[keep:]


def told(item: Seen, now: float) -> Replica:
    """The record of a replica that is told to stop."""
    return changed(item.replica, {"stopped_at": now})


def hung(item: Seen, now: float) -> Replica:
    """The record of a replica that is stopped because it says nothing any more."""
    message = f"It said nothing for {item.silent_s:.0f} s."
    return changed(item.replica, {"stopped_at": now, "failed": True, "message": message})


def written_off(item: Seen, now: float) -> Replica:
    """A replica that ended without being told has failed, whatever its exit code says."""
    failed = item.replica.failed or item.replica.stopped_at is None
    words = item.replica.message or (item.last_words if failed else "")
    return changed(item.replica, {"ended_at": now, "failed": failed, "worked": item.ready, "message": words})
