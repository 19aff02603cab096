"""Pure decisions about endpoints whose replicas stand behind a gateway, or come from there or go there. The plain ones are `rules`' alone.

Three things are kept whatever happens: nothing is stopped before what takes over for it answers; a split comes into force only once its
replicas answer; and the ports always have a listener, because the replicas that share them stop only while the gateway listens there, and
it lets go only once such replicas answer again.
"""

import math
from collections.abc import Sequence

from skyloom.rooms.serving import rules
from skyloom.rooms.serving.model import Endpoint, EndpointState, ReplicaState
from skyloom.rooms.serving.rules import SILENT_S, ReplicaStart, Seen, Situation, Steps
from skyloom.rooms.serving.split import Canary, Front, TrafficSplit

Slot = tuple[int, bool]
"""Replicas of one kind: number of the revision, and whether they stand behind the gateway."""


def needs_gateway(endpoint: Endpoint, canary: Canary | None, now: float) -> bool:
    """Somebody has to choose between revisions, to wait for replicas that come and go, or to pass by those that are only kept."""
    if endpoint.scaling is not None:
        return True
    if endpoint.coming is not None or not endpoint.in_force.is_plain:
        return True
    return (canary is not None and canary.live) or keeps_fallback(endpoint, now)


def keeps_fallback(endpoint: Endpoint, now: float) -> bool:
    """Replicas of the revision that had all the traffic before are still kept."""
    kept = endpoint.fallback
    return kept is not None and kept.number != endpoint.in_force.sole and now < kept.until


def is_plain(now_is: Situation) -> bool:
    """Its replicas share its ports, and nothing else is there."""
    return now_is.endpoint.front is Front.DIRECT and not any(item.replica.private for item in now_is.seen)


def counts(endpoint: Endpoint, canary: Canary | None, now: float) -> dict[int, int]:
    """How many replicas behind the gateway each revision is to have: by its part of the traffic, now or once the coming split holds."""
    promised = endpoint.num_replicas
    wanted: dict[int, int] = {}
    for split in (endpoint.in_force, endpoint.coming):
        for number, count in _counts_of(split, promised).items() if split else ():
            wanted[number] = max(count, wanted.get(number, 0))
    if canary is not None and canary.live:
        wanted[canary.stable] = promised  # going back must need no start
    if endpoint.fallback is not None and keeps_fallback(endpoint, now):
        wanted[endpoint.fallback.number] = promised
    return wanted


def reconcile(now_is: Situation, now: float) -> Steps:
    """Decide the next steps of one endpoint, whatever stands before it."""
    endpoint = now_is.endpoint
    if is_plain(now_is) or endpoint.stopped_by:
        return rules.reconcile(now_is, now)
    ended = tuple(rules.written_off(item, now) for item in now_is.seen if item.ended)
    failures = [*now_is.failures, *(replica for replica in ended if replica.failed)]
    silent = [item for item in now_is.seen if item.wanted and item.silent_s > SILENT_S]
    alive = [item for item in now_is.seen if item.wanted and item not in silent]
    wanted = _slots(now_is, now)
    starts, pauses = [], []
    for (number, private), count in wanted.items():
        held = _held(alive, (number, private))
        missing = count - len(held)
        pause_s = rules.pause_left(number, failures, now, others_answer=any(item.answers for item in held))
        if missing > 0 and pause_s <= 0:
            starts.append(ReplicaStart(number, private, missing))
        elif missing > 0:
            pauses.append(pause_s)
    leaving = [rules.hung(item, now) for item in silent]
    leaving += [rules.told(item, now) for item in _leaving(now_is, alive, wanted)]
    waiting = any(item.waits for item in alive)
    return Steps(
        ended=ended,
        stop=tuple(leaving),
        starts=tuple(starts),
        wait_s=min(pauses, default=None),
        drop_fallback=waiting and _may_drop(now_is, now),
    )


def _may_drop(now_is: Situation, now: float) -> bool:
    """Something is kept for going back that a live canary would not go back to."""
    kept, canary = now_is.endpoint.fallback, now_is.canary
    needed = kept is not None and canary is not None and canary.live and canary.stable == kept.number
    return keeps_fallback(now_is.endpoint, now) and not needed


def published(now_is: Situation) -> bool:
    """The gateway is to listen for the endpoint."""
    endpoint = now_is.endpoint
    if endpoint.stopped_by or not endpoint.rest_port:
        return False
    private = [item for item in now_is.seen if item.wanted and item.replica.private]
    if endpoint.front is Front.DIRECT:
        return bool(private) and _answering(now_is.seen, (endpoint.current, False)) < endpoint.num_replicas
    direct = [item for item in now_is.seen if item.answers and not item.replica.private]
    # Beside replicas that answer, a gateway that could only hold its share of the requests would be a gap.
    ready = {item.replica.revision_number for item in private if item.answers}
    return not direct or ready >= set(endpoint.in_force.weighted)


def takes_over(now_is: Situation) -> bool:
    """The coming split's replicas answer, so that it may come into force; where the machine has no room for all, one of each does."""
    endpoint = now_is.endpoint
    if endpoint.coming is None or endpoint.front is not Front.GATEWAY or not now_is.listens:
        return False
    if any(item.answers and not item.replica.private for item in now_is.seen):
        return False  # they still take requests, and all for the split in force
    crowded = any(item.wanted and item.waits for item in now_is.seen)
    needed = _counts_of(endpoint.coming, endpoint.num_replicas)
    answering = {number: _answering(now_is.seen, (number, True)) for number in needed}
    return all(answering[number] >= (min(1, count) if crowded else count) for number, count in needed.items())


def state_of(now_is: Situation, now: float) -> tuple[EndpointState, str, str]:
    """What an endpoint is doing, in a word; why, in a sentence; what to do about it."""
    endpoint = now_is.endpoint
    if is_plain(now_is) or endpoint.stopped_by:
        return rules.state_of(now_is, now)
    needed = _counts_of(endpoint.in_force, endpoint.num_replicas)
    answering = {number: _answering(now_is.seen, (number, True)) for number in needed}
    direct = _answering(now_is.seen, (endpoint.current, False))
    covered = now_is.listens and all(answering[number] >= count for number, count in needed.items())
    covered = covered or direct >= endpoint.num_replicas
    canary = now_is.canary if now_is.canary and now_is.canary.live else None
    if covered and endpoint.coming is None:
        return EndpointState.READY, canary.message if canary else "", ""
    concerned = set(needed) | set(endpoint.coming.weighted if endpoint.coming else ())
    silent = [number for number in sorted(concerned) if not _answering(now_is.seen, (number, True))]
    failed = [rules.early_failures(number, now_is.failures, now) for number in silent]
    looping = next((group for group in failed if len(group) >= rules.LOOP_FAILURES), None)
    if looping:
        number = looping[-1].revision_number
        return (
            EndpointState.CRASH_LOOP,
            f"Replicas of revision {number} ended {len(looping)} times within {rules.FAILURE_WINDOW_S:.0f} s: {looping[-1].message}",
            f"Go back (skyloom endpoint rollback {endpoint.name}), or read all it said (skyloom job logs {looping[-1].job_id}), mend that "
            "and deploy again.",
        )
    words, action = _missing_words(now_is, needed, answering)
    works = direct or (now_is.listens and any(answering.values()))
    return (EndpointState.DEGRADED if works else EndpointState.STARTING), words, action


def _missing_words(now_is: Situation, needed: dict[int, int], answering: dict[int, int]) -> tuple[str, str]:
    endpoint = now_is.endpoint
    if endpoint.coming is not None:
        missing = _counts_of(endpoint.coming, endpoint.num_replicas)
        answering = {number: _answering(now_is.seen, (number, True)) for number in missing}
        said = "The next split of the traffic waits for its replicas: "
    else:
        missing, said = needed, ""
    parts = [f"{answering[number]} of {count} of revision {number} answer" for number, count in missing.items()]
    words = said + ", ".join(parts) + "."
    if not now_is.listens and endpoint.front is Front.GATEWAY:
        words += " The gateway does not listen yet."
    if any(item.waits for item in now_is.seen if item.wanted):
        return (
            words + " A replica waits for resources.",
            "Stop something that holds them (skyloom job list), or deploy with less (--cpus, --memory).",
        )
    return words, "Wait a moment."


def _counts_of(split: TrafficSplit, promised: int) -> dict[int, int]:
    """Replicas that one split needs of each revision: its part of those promised, and at least one."""
    least = min(1, promised)
    wanted = {rule.revision: least for rule in split.rules}
    for number, part in (*split.shadows.items(), *split.weighted.items()):
        if part > 0:
            wanted[number] = max(least, math.ceil(promised * part - 1e-9), wanted.get(number, 0))
    return wanted


def _slots(now_is: Situation, now: float) -> dict[Slot, int]:
    endpoint = now_is.endpoint
    if endpoint.front is Front.DIRECT:
        return {(endpoint.current, False): endpoint.num_replicas}
    return {(number, True): count for number, count in sorted(counts(endpoint, now_is.canary, now).items())}


def _held(seen: Sequence[Seen], slot: Slot) -> list[Seen]:
    return [item for item in seen if (item.replica.revision_number, item.replica.private) == slot]


def _answering(seen: Sequence[Seen], slot: Slot) -> int:
    return sum(item.answers for item in _held(seen, slot))


def _leaving(now_is: Situation, alive: Sequence[Seen], wanted: dict[Slot, int]) -> list[Seen]:
    """Replicas that nobody needs any more, and at most one that makes room."""
    leaving: list[Seen] = []
    for slot, count in wanted.items():
        leaving += rules.surplus(_held(alive, slot), count)
    others = [item for item in alive if (item.replica.revision_number, item.replica.private) not in wanted]
    serving = [item for item in others if _serves(now_is, item)]
    leaving += [item for item in others if item not in serving]
    if _taken_over(now_is, alive, wanted):
        return [*leaving, *serving]
    stopping = any(item.state is ReplicaState.STOPPING for item in now_is.seen)
    reached = sum(item.answers and _reached(now_is, item) for item in alive)
    if serving and not stopping and any(item.waits for item in alive) and reached > 1:
        leaving.append(min(serving, key=lambda item: (item.answers, item.replica.id)))
    return leaving


def _serves(now_is: Situation, item: Seen) -> bool:
    """Requests may reach it although it is not to stay: it shares the ports, or the gateway still knows it."""
    endpoint = now_is.endpoint
    if endpoint.front is Front.GATEWAY:
        return not item.replica.private
    return not item.replica.private or item.replica.revision_number in endpoint.in_force.weighted


def _reached(now_is: Situation, item: Seen) -> bool:
    """Requests get to it: it shares the ports, or the gateway that listens there sends some."""
    if not item.replica.private:
        return True
    return now_is.listens and item.replica.revision_number in now_is.endpoint.in_force.weighted


def _taken_over(now_is: Situation, alive: Sequence[Seen], wanted: dict[Slot, int]) -> bool:
    """Who is to answer does, and is asked."""
    endpoint = now_is.endpoint
    if endpoint.front is Front.DIRECT:
        return not now_is.listens and _answering(alive, (endpoint.current, False)) >= endpoint.num_replicas
    return now_is.listens and all(
        _answering(alive, (number, True)) >= count
        for number, count in _counts_of(endpoint.in_force, endpoint.num_replicas).items()
    )
