"""Pure decisions of a canary: when it goes a step on, when it waits, and when it is worse than what it would replace.

It is judged in each step by the requests of that step only, because while the weights stand, chance alone decides which revision a request
meets; `evidence` says why that can be looked at every second. The chance of a false alarm is shared among the steps and the tests.

Whether its answers are right is judged over all of its steps, because labels come late: of rows with a label that were answered wrong, the
new revision has no more than its share of the rows with a label, if both are as often wrong.
"""

import math
from dataclasses import dataclass

from skyloom.rooms.monitoring.model import BIN_GROWTH, FIRST_BIN_S, Latency
from skyloom.rooms.monitoring.windows import latency_quantile
from skyloom.rooms.quality.model import QualityCount
from skyloom.rooms.serving.evidence import chance_of_error, log_evidence
from skyloom.rooms.serving.routes import RevisionTraffic
from skyloom.rooms.serving.split import CANARY_MOVES, Canary, CanaryState, TrafficSplit

NOTHING = RevisionTraffic()
CRASHES = 3
ERROR_TOLERANCE = 1.25  # odds of erring that count as "no worse"
_SLOW_SHARE = 0.01  # what may be slower than a p99
_LEAST_STABLE = 200  # requests of the stable revision without which its p99 is unknown
_LEAST_GAP_S = 0.01  # milliseconds are the machine's, not the model's
_NUM_TESTS = 6
_LEAST_LABELS = 20  # of each revision, below which the two are not compared
_UNLABELLED = QualityCount()


@dataclass(frozen=True)
class Watched:
    """What is known of a canary now.

    Attributes:
        since: when the split of its step came into force; None while replicas for it start.
        crashes: replicas of the new revision that failed since it began.
        last_words: of the latest of them.
        stable, fresh: what the two revisions were asked in this step.
        drift: what a drift alert says that fired since it began; "" without one.
        stable_labels, fresh_labels: what labels say of their answers since it began.
    """

    since: float | None = None
    crashes: int = 0
    last_words: str = ""
    stable: RevisionTraffic = NOTHING
    fresh: RevisionTraffic = NOTHING
    drift: str = ""
    stable_labels: QualityCount = _UNLABELLED
    fresh_labels: QualityCount = _UNLABELLED


@dataclass(frozen=True)
class CanaryMove:
    """What becomes of a canary: its next state and step, and why, in a sentence with the numbers."""

    state: CanaryState
    step: int
    message: str


def decide(canary: Canary, seen: Watched, now: float) -> CanaryMove | None:
    """The next move of a live canary, or None while there is nothing to decide. Raises `IllegalMove` never for what it says itself."""
    if not canary.live:
        return None
    verdict = _worse(canary, seen) or _onward(canary, seen, now)
    if verdict is not None:
        CANARY_MOVES.check(canary.id, canary.state, verdict.state)
    return verdict


def split_of(canary: Canary, before: TrafficSplit, step: int) -> TrafficSplit:
    """How traffic is shared at a step; header rules and stickiness stay as they were."""
    percent = canary.plan.percent(step)
    shadows = {number: part for number, part in before.shadows.items() if number != canary.number}
    if canary.plan.shadow and step == 0:
        shadows[canary.number] = 1.0
    shares = {canary.stable: 100.0 - percent, canary.number: percent}
    return TrafficSplit(shares=shares, rules=before.rules, sticky_header=before.sticky_header, shadows=shadows)


def all_to(number: int, before: TrafficSplit, gone: int) -> TrafficSplit:
    """Everything to one revision; what was ruled to go to the one that is gone goes there too."""
    return TrafficSplit(
        shares={number: 1.0},
        rules=tuple(rule for rule in before.rules if rule.revision != gone),
        sticky_header=before.sticky_header,
        shadows={key: part for key, part in before.shadows.items() if key not in (gone, number)},
    )


def step_words(canary: Canary, step: int) -> str:
    """What a step is, in words."""
    place = f"step {step + 1} of {canary.plan.num_steps}"
    if canary.plan.shadow and step == 0:
        return f"{place}: revision {canary.number} is sent a copy of every request"
    return f"{place}: revision {canary.number} has {canary.plan.percent(step):g}% of the traffic"


def _worse(canary: Canary, seen: Watched) -> CanaryMove | None:
    """Why it must go back, or None."""
    number = canary.number
    if seen.crashes >= CRASHES:
        words = f"replicas of revision {number} ended {seen.crashes} times: {seen.last_words}"
    elif seen.drift and canary.plan.on_drift:
        words = f"since revision {number} has traffic, {seen.drift}"
    elif seen.since is not None:
        words = judge(canary, seen.stable, seen.fresh) or judge_labels(canary, seen.stable_labels, seen.fresh_labels)
    else:
        words = ""
    if not words:
        return None
    return CanaryMove(CanaryState.ROLLED_BACK, canary.step, f"Back to revision {canary.stable}: {words}")


def _onward(canary: Canary, seen: Watched, now: float) -> CanaryMove | None:
    """The next step, once this one has lasted long enough and was seen enough."""
    if seen.since is None:
        return None
    plan, step = canary.plan, canary.step
    if canary.state is CanaryState.PENDING:
        return CanaryMove(CanaryState.STEPPING, step, _capital(step_words(canary, step)) + ".")
    if now - seen.since < plan.step_s:
        return None
    lacks = ""
    if seen.fresh.requests < plan.min_requests:
        lacks = f"Too little traffic: revision {canary.number} has answered {seen.fresh.requests:,} of {plan.min_requests:,} requests"
    elif seen.fresh_labels.labelled < plan.min_labels and not (plan.shadow and step == 0):
        lacks = f"Too few labels: {seen.fresh_labels.labelled:,} of {plan.min_labels:,} rows of revision {canary.number} have one"
    if lacks:
        if canary.state is CanaryState.WAITING:
            return None
        return CanaryMove(
            CanaryState.WAITING, step, f"{lacks} in {step_words(canary, step).partition(':')[0]}; it waits."
        )
    passed = f"{_counted(canary.number, seen.fresh)}, {_counted(canary.stable, seen.stable)}"
    if step + 1 == plan.num_steps:
        return CanaryMove(CanaryState.PROMOTED, step, f"Revision {canary.number} has all the traffic: {passed}.")
    return CanaryMove(CanaryState.STEPPING, step + 1, f"{_capital(step_words(canary, step + 1))}: {passed}.")


def judge(canary: Canary, stable: RevisionTraffic, fresh: RevisionTraffic) -> str:
    """Why the new revision is worse, with the numbers; "" when nothing proves it."""
    limit = math.log(_NUM_TESTS * canary.plan.num_steps / canary.plan.false_alarm)
    return _erring(canary, stable, fresh, limit) or _slow(canary, stable, fresh, limit)


def judge_labels(canary: Canary, stable: QualityCount, fresh: QualityCount) -> str:
    """Why the new revision's answers are more often wrong, with the numbers; "" when nothing proves it."""
    limit, most = math.log(_NUM_TESTS / canary.plan.false_alarm), canary.plan.max_wrong_rate
    if most is not None and (found := log_evidence(fresh.wrong, fresh.right, most)) >= limit:
        return f"{_labelled(canary.number, fresh)}; {most:.2%} are allowed ({_odds(found)})."
    if min(stable.judged, fresh.judged) < _LEAST_LABELS:
        return ""
    share = fresh.judged / (fresh.judged + stable.judged)
    found = log_evidence(fresh.wrong, stable.wrong, chance_of_error(share, ERROR_TOLERANCE))
    if found < limit:
        return ""
    return f"{_labelled(canary.number, fresh)}, {_labelled(canary.stable, stable)} ({_odds(found)})."


def _erring(canary: Canary, stable: RevisionTraffic, fresh: RevisionTraffic, limit: float) -> str:
    bad, good = fresh.server_errors, max(0, fresh.requests - fresh.server_errors)
    most = canary.plan.max_error_rate
    if most is not None:
        found = log_evidence(bad, good, most)
        if found >= limit:
            return f"{_counted(canary.number, fresh)}; {most:.2%} are allowed ({_odds(found)})."
    if not bad or not stable.requests:
        return ""
    share = max(fresh.requests / (fresh.requests + stable.requests), designed_share(canary))
    found = log_evidence(bad, stable.server_errors, chance_of_error(share, ERROR_TOLERANCE))
    if found < limit:
        return ""
    return f"{_counted(canary.number, fresh)}, {_counted(canary.stable, stable)} ({_odds(found)})."


def designed_share(canary: Canary) -> float:
    """The new revision's part of all requests that are sent to one of the two, as the step has it."""
    return 0.5 if canary.plan.shadow and canary.step == 0 else canary.plan.percent(canary.step) / 100.0


def _slow(canary: Canary, stable: RevisionTraffic, fresh: RevisionTraffic, limit: float) -> str:
    plan = canary.plan
    if plan.max_p99_s is not None and (words := _slower(canary, fresh, plan.max_p99_s, limit)):
        return f"{words}; a p99 of {plan.max_p99_s:g} s is allowed."
    known_s = latency_quantile(stable.latency, 0.99)
    if known_s is None or sum(stable.latency.counts.values()) < _LEAST_STABLE:
        return ""
    bound_s = max(plan.max_p99_ratio * known_s, known_s + _LEAST_GAP_S)
    words = _slower(canary, fresh, bound_s, limit)
    told = f"the p99 of revision {canary.stable} is {known_s * 1e3:.1f} ms, and {plan.max_p99_ratio:g} times that is allowed"
    return f"{words}; {told}." if words else ""


def _slower(canary: Canary, fresh: RevisionTraffic, bound_s: float, limit: float) -> str:
    """A p99 is above a bound when more than one request in a hundred is slower."""
    total = sum(fresh.latency.counts.values())
    slow = slower_than(fresh.latency, bound_s)
    found = log_evidence(slow, total - slow, _SLOW_SHARE)
    if found < limit:
        return ""
    return f"{slow:,} of {total:,} answers of revision {canary.number} took longer than {bound_s * 1e3:.1f} ms ({_odds(found)})"


def slower_than(latency: Latency, bound_s: float) -> int:
    """How many requests took longer than that for certain: those whose whole bin lies above it."""
    return sum(count for place, count in latency.counts.items() if FIRST_BIN_S * BIN_GROWTH**place >= bound_s)


def _counted(number: int, seen: RevisionTraffic) -> str:
    share = seen.server_errors / seen.requests if seen.requests else 0.0
    return (
        f"revision {number} answered {seen.server_errors:,} of {seen.requests:,} requests with an error ({share:.2%})"
    )


def _labelled(number: int, count: QualityCount) -> str:
    rate = count.wrong / count.judged if count.judged else 0.0
    return (
        f"{count.wrong:,} of {count.judged:,} rows with a label were answered wrong by revision {number} ({rate:.2%})"
    )


def _odds(found: float) -> str:
    return f"by chance less than once in {math.exp(min(found, 27.6)):,.0f}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
