"""Pure decisions of devices: what state one is in, what of a chunk is new, which devices get a roll-out next and when it goes back.

Snapshot in, plan out. No clock, store or network is known here. Everything is computed anew each time from what is true then, so a lost
or repeated step changes nothing.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from skyloom.core.labels import matches
from skyloom.rooms.devices.messages import DeviceOutcome
from skyloom.rooms.devices.model import Device, DeviceReport, DeviceState
from skyloom.rooms.devices.rollout import Rollout, RolloutProgress, RolloutState
from skyloom.rooms.monitoring.model import MAX_BINS, Histogram, Latency, Traffic

LATE_CALLS, OFFLINE_CALLS = 2.5, 10.0
_GRACE_S = 5.0
_NAMED, _NAMED_LABELS = 10, 20
_OPEN = (DeviceOutcome.PENDING, DeviceOutcome.PROBATION)
MOST = 2**53  # a `Count`


def state_of(device: Device, report: DeviceReport | None, now: float) -> DeviceState:
    """What a device is doing, by when it called last and how often it means to."""
    if device.retired_at is not None:
        return DeviceState.RETIRED
    if device.joined_at is None:
        return DeviceState.ENROLLED
    seen_at = max(device.joined_at, report.seen_at if report else 0.0)
    silent_s, interval_s = now - seen_at, report.interval_s if report else 30.0
    if silent_s <= LATE_CALLS * interval_s + _GRACE_S:
        return DeviceState.ONLINE
    return DeviceState.LATE if silent_s <= OFFLINE_CALLS * interval_s + _GRACE_S else DeviceState.OFFLINE


def nobody_meant(devices: Iterable[Device], selector: Mapping[str, str]) -> str:
    """Why a selector is for no device, and which labels there are, in words; "" when it is for one that was not retired."""
    here = [device for device in devices if device.retired_at is None]
    if any(matches(device.labels, selector) for device in here):
        return ""
    if not here:
        return "There is no device."
    wanted = " and ".join(f"{name}={value}" for name, value in selector.items())
    return f"No device is {wanted}. {'; '.join(_known_values(name, here) for name in selector)}."


def _known_values(name: str, devices: Sequence[Device]) -> str:
    known = sorted({device.labels[name] for device in devices if name in device.labels})
    more = f", and {len(known) - _NAMED_LABELS} more" if len(known) > _NAMED_LABELS else ""
    if known:
        return f"{name} is one of: {', '.join(known[:_NAMED_LABELS])}{more}"
    names = sorted({label for device in devices for label in device.labels})[:_NAMED_LABELS]
    return f"no device has the label {name}; there are: {', '.join(names) or 'none'}"


# The outbox


@dataclass(frozen=True)
class NewPart:
    """What of a chunk is taken: the records from ``start`` on, after which ``next`` is expected; ``skipped`` will never come."""

    start: int
    next: int
    skipped: int


def intake(position: int, oldest: int, first: int, count: int) -> NewPart:
    """Decide what is new in a chunk of ``count`` records that begins with number ``first``.

    Records below ``oldest`` are gone on the device, so the cloud waits for them no longer. A chunk that begins beyond what is expected is
    not taken at all: it came out of order, and the device asks where it stands.
    """
    expected = max(position, oldest)
    known = expected - first
    if known < 0 or known >= count:
        return NewPart(start=count, next=expected, skipped=expected - position)
    return NewPart(start=known, next=first + count, skipped=expected - position)


def grown(before: Traffic, after: Traffic) -> Traffic:
    """What was added between two totals of one run; nothing is ever taken away. Histograms only if both have the same."""
    counts = after.latency.counts
    pairs = list(zip(before.histograms or after.histograms, after.histograms, strict=False))
    same = len(before.histograms) in (0, len(after.histograms))
    histograms = tuple(_added(old if before.histograms else None, new) for old, new in pairs) if same else ()
    return Traffic(
        requests=max(0, after.requests - before.requests),
        rows=max(0, after.rows - before.rows),
        client_errors=max(0, after.client_errors - before.client_errors),
        server_errors=max(0, after.server_errors - before.server_errors),
        latency=Latency(
            counts={
                place: added for place, n in counts.items() if (added := n - before.latency.counts.get(place, 0)) > 0
            }
        ),
        histograms=histograms,
    )


def _added(old: Histogram | None, new: Histogram) -> Histogram:
    if old is None or len(old.counts) != len(new.counts):
        return new
    counts = tuple(max(0, after - before) for before, after in zip(old.counts, new.counts, strict=True))
    return Histogram(counts=counts, missing=max(0, new.missing - old.missing))


def together(one: Traffic, other: Traffic) -> Traffic:
    """Two totals as one, without histograms. Sums that somebody drives too high stay at the most that a count can be."""
    places = sorted(one.latency.counts.keys() | other.latency.counts.keys())[:MAX_BINS]
    counts = {place: _sum(one.latency.counts.get(place, 0), other.latency.counts.get(place, 0)) for place in places}
    return Traffic(
        requests=_sum(one.requests, other.requests),
        rows=_sum(one.rows, other.rows),
        client_errors=_sum(one.client_errors, other.client_errors),
        server_errors=_sum(one.server_errors, other.server_errors),
        latency=Latency(counts=counts),
    )


def summed(one: Traffic, other: Traffic, bins: Sequence[int]) -> Traffic:
    """Two totals as one, with histograms of these lengths. Others are left out: who counts differently is wrong or lies."""
    parts = [part for part in (one.histograms, other.histograms) if [len(item.counts) for item in part] == list(bins)]
    histograms = tuple(
        Histogram(
            counts=tuple(map(_sum, *(item.counts for item in same))) if len(same) > 1 else same[0].counts,
            missing=min(MOST, sum(item.missing for item in same)),
        )
        for same in zip(*parts, strict=True)
    )
    return msgspec.structs.replace(together(one, other), histograms=histograms)


def _sum(*counts: int) -> int:
    return min(MOST, sum(counts))


# Roll-outs


@dataclass(frozen=True)
class Seat:
    """A device that a roll-out is for, and how it stands.

    Attributes:
        mine: the roll-out has told it what to serve.
        free: it may be told: it has joined, and no other roll-out is at work on it.
        outcome: what it said of what it was told; PENDING until it says something of the newest.
        near: it called lately.
        gone: it was retired; nothing is to be hoped from it.
        name, said: what it is called, and with why it failed, in words.
    """

    device: str
    name: str = ""
    said: str = ""
    mine: bool = False
    free: bool = True
    outcome: DeviceOutcome = DeviceOutcome.PENDING
    near: bool = True
    gone: bool = False


@dataclass(frozen=True)
class RolloutTurn:
    """What to do with a roll-out now.

    Attributes:
        state, stage, passed_at, message: as they should be from now on.
        assign: devices to tell.
    """

    state: RolloutState
    stage: int
    passed_at: float | None
    message: str
    assign: tuple[str, ...] = ()


def fallback_of(device: Device, report: DeviceReport | None) -> str:
    """What a device goes back to: what it should serve, or what it serves instead when it has given that up."""
    failed = report is not None and report.assignment == device.assignment and report.outcome is DeviceOutcome.FAILED
    return report.serving if failed and report else device.wanted


def seat_of(device: Device, report: DeviceReport | None, rollout: Rollout, busy: bool, now: float) -> Seat:
    """How a device stands to a roll-out. ``busy``: another roll-out is at work on it."""
    said = report is not None and report.assignment == device.assignment
    state = state_of(device, report, now)
    outcome = report.outcome if said and report else DeviceOutcome.PENDING
    near = state in (DeviceState.ONLINE, DeviceState.LATE)
    why = report.message if report else ""
    if near and outcome in _OPEN and _took_too_long(device, report, rollout, now):
        outcome, why = DeviceOutcome.FAILED, f"It calls, and has not said for {rollout.patience_s:g} s how it fares."
    return Seat(
        device=device.id,
        name=device.name,
        mine=device.rollout == rollout.id,
        free=not busy and state not in (DeviceState.ENROLLED, DeviceState.RETIRED),
        outcome=outcome,
        near=near,
        gone=state is DeviceState.RETIRED,
        said=f"{device.name}: {why}" if why else "",
    )


def _took_too_long(device: Device, report: DeviceReport | None, rollout: Rollout, now: float) -> bool:
    """It was told and has called for longer than anybody has patience. The time that it was away does not count."""
    since = max(device.ordered_at, report.back_at if report else 0.0)
    return device.rollout == rollout.id and now - since > rollout.patience_s + device.probation_s


def is_back(before: DeviceReport, now: float) -> bool:
    """True when a device calls that was not heard of for long."""
    return now - before.seen_at > OFFLINE_CALLS * before.interval_s + _GRACE_S


def progress_of(seats: Sequence[Seat]) -> RolloutProgress:
    """Count the devices of a roll-out."""
    mine = [seat for seat in seats if seat.mine]
    failed = [seat for seat in mine if seat.outcome is DeviceOutcome.FAILED]
    waiting = [seat for seat in mine if seat.outcome in _OPEN and seat.near]
    return RolloutProgress(
        matching=sum(seat.mine or seat.free for seat in seats),
        assigned=len(mine),
        healthy=sum(seat.outcome is DeviceOutcome.HEALTHY for seat in mine),
        failed=len(failed),
        waiting=len(waiting),
        away=sum(seat.outcome in _OPEN and not seat.near for seat in mine),
        troubles=tuple(seat.said or seat.name for seat in failed[:_NAMED]),
        waits_for=tuple(seat.name for seat in waiting[:_NAMED]),
    )


def take_turn(rollout: Rollout, seats: Sequence[Seat], now: float) -> RolloutTurn:
    """Decide the next step of a roll-out that has not ended."""
    counted = progress_of(seats)
    keeps = RolloutTurn(rollout.state, rollout.stage, rollout.passed_at, rollout.message)
    if rollout.state is RolloutState.ROLLING_BACK:
        over = counted.waiting == 0
        return RolloutTurn(RolloutState.ROLLED_BACK if over else rollout.state, rollout.stage, None, rollout.message)
    bad = _too_many_failed(rollout, counted, seats)
    if bad:
        return RolloutTurn(RolloutState.ROLLING_BACK, rollout.stage, None, bad)
    if rollout.state is RolloutState.PAUSED:
        return keeps
    chosen = _chosen(rollout, seats)
    if chosen:
        return RolloutTurn(rollout.state, rollout.stage, None, "", chosen)
    if all(seat.gone for seat in seats) and not counted.healthy + counted.failed:
        return RolloutTurn(RolloutState.DONE, rollout.stage, None, "No device is left that it is for.")
    if counted.waiting or not counted.healthy + counted.failed:
        return RolloutTurn(rollout.state, rollout.stage, None, "")
    passed_at = now if rollout.passed_at is None else min(rollout.passed_at, now)  # clocks may be set back
    is_last = rollout.stage + 1 >= len(rollout.stages)
    if is_last:
        return RolloutTurn(RolloutState.DONE, rollout.stage, passed_at, "")
    if now < passed_at + rollout.pause_s:
        return RolloutTurn(rollout.state, rollout.stage, passed_at, "")
    return RolloutTurn(rollout.state, rollout.stage + 1, None, "")


def wanted_seats(share: int, matching: int) -> int:
    """How many of so many devices a stage is for: its share, rounded up, so that the first stage has at least one."""
    return math.ceil(share * matching / 100)


def _too_many_failed(rollout: Rollout, counted: RolloutProgress, seats: Sequence[Seat]) -> str:
    """Why it has to go back, or "". Judged by all that it was given to: one that is still to answer counts as if it would be well."""
    possible = counted.assigned - counted.failed
    if not counted.failed or possible >= rollout.min_healthy * counted.assigned:
        return ""
    failed = (seat.said for seat in seats if seat.mine and seat.outcome is DeviceOutcome.FAILED and seat.said)
    return (
        f"{counted.failed} of {counted.assigned} devices gave up {rollout.model} version {rollout.number}; "
        f"at least {rollout.min_healthy:.0%} must be healthy. {next(failed, '')}"
    ).rstrip()


def _chosen(rollout: Rollout, seats: Sequence[Seat]) -> tuple[str, ...]:
    """Devices to tell now, always in the same order, which differs from roll-out to roll-out: nobody is always the first to suffer."""
    meant = [seat for seat in seats if seat.mine or seat.free]
    missing = wanted_seats(rollout.stages[rollout.stage], len(meant)) - sum(seat.mine for seat in meant)
    open_seats = sorted(
        (seat for seat in meant if not seat.mine), key=lambda seat: (not seat.near, _rank(rollout.id, seat.device))
    )
    return tuple(seat.device for seat in open_seats[: max(0, missing)])


def _rank(rollout_id: str, device: str) -> bytes:
    return hashlib.sha256(f"{rollout_id}/{device}".encode()).digest()
