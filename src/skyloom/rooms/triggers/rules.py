"""Pure decisions of triggers: whether an event is meant, whether it is too much, whether a call is genuine."""

import hmac
from collections.abc import Mapping

import msgspec

from skyloom.core.events import Event, HookCalled, TriggerEvent
from skyloom.ports.store import changed
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.schedules.rules import next_slot
from skyloom.rooms.triggers import model
from skyloom.rooms.triggers.model import FIELDS, Happening, RunBatch, Trigger, TriggerState, When

HOUR_S = 3_600.0


def check(when: When, now: float) -> None:
    """Raise `TriggerUnclear` for what could never happen; `CronUnreadable`, `TimeZoneUnknown`."""
    is_clock = when.kind is Happening.CRON
    if is_clock != (when.cron is not None):
        raise model.TriggerUnclear(
            "A clock needs a cron line, and nothing else has one.", next_action="Write: --on cron --cron '@daily'."
        )
    if is_clock and next_slot(when.cron or "", when.time_zone, now) is None:
        raise model.TriggerUnclear(f"{when.cron!r} never comes true.", next_action="Name a day that some month has.")
    for name in when.where:
        if name not in FIELDS[when.kind]:
            known = ", ".join(FIELDS[when.kind]) or "none"
            raise model.TriggerUnclear(f"{when.kind.value} has no field {name!r}.", next_action=f"Its fields: {known}.")


def is_meant(trigger: Trigger, event: Event, kind: Happening, facts: Mapping[str, str]) -> bool:
    """The event is what the trigger waits for. Slots and calls are those of one trigger."""
    if kind is not trigger.when.kind:
        return False
    if kind in (Happening.CRON, Happening.HTTP) and event.subject != trigger.id:
        return False
    return all(_fits(facts.get(name, ""), pattern) for name, pattern in trigger.when.where.items())


def _fits(value: str, pattern: str) -> bool:
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def depth_of(event: Event) -> int:
    """How many triggers stand between an event and what nobody's trigger began."""
    return event.cause.depth if event.cause else 0


def told(trigger: Trigger, number: int, event: Event, kind: Happening, facts: Mapping[str, str]) -> TriggerEvent:
    """An event as it is told to what is run."""
    return TriggerEvent(
        id=f"{trigger.id}.{number}",
        kind=kind.value,
        trigger=trigger.name,
        at=event.at,
        subject=event.subject,
        facts=dict(facts),
        body=event.body.body if isinstance(event.body, HookCalled) else "",
        depth=depth_of(event) + 1,
    )


def ran_away(trigger: Trigger, now: float) -> bool:
    """It was set off as often in this hour as it may be."""
    return now - trigger.hour_at < HOUR_S and trigger.num_in_hour >= trigger.max_per_hour


def delivered(trigger: Trigger, number: int, began: str, refused: str, now: float) -> Trigger:
    """A trigger that has dealt with an event."""
    same_hour = now - trigger.hour_at < HOUR_S
    return changed(
        trigger,
        {
            "cursor": number,
            "waits_for": began if began.startswith("inv_") else "",
            "num_delivered": trigger.num_delivered + (not refused),
            "num_refused": trigger.num_refused + bool(refused),
            "hour_at": trigger.hour_at if same_hour else now,
            "num_in_hour": trigger.num_in_hour + 1 if same_hour else 1,
            "message": refused,
        },
    )


def cut(trigger: Trigger, number: int, depth: int) -> Trigger:
    """A trigger that passes over an event because it is the consequence of too many triggers: it may be its own."""
    why = f"passed over event {number}: {depth} triggers stand before it, so this may be a loop"
    return changed(trigger, {"cursor": number, "num_cut": trigger.num_cut + 1, "message": why})


def put(trigger: Trigger, state: TriggerState, message: str) -> Trigger:
    """A trigger in another state. Raises `IllegalMove`."""
    model.TRIGGER_MOVES.check(trigger.id, trigger.state, state)
    return changed(trigger, {"state": state, "message": message})


def order_for(run: RunBatch, kind: Happening, facts: Mapping[str, str]) -> BatchOrder:
    """What is predicted: of the dataset that set it off, that very version."""
    is_its_own = kind is Happening.DATASET_VERSION and facts.get("dataset") == run.order.dataset
    return msgspec.structs.replace(run.order, version=facts["version"]) if is_its_own else run.order


def secret_of(key: bytes, trigger_id: str) -> str:
    """What calls of a trigger's address are signed with: a MAC of its id, so that none has to be stored."""
    return "trsec_" + hmac.new(key, b"trigger:" + trigger_id.encode(), "sha256").hexdigest()


def moment_of(signature: str, secret: str, body: bytes) -> float | None:
    """When a call was signed, by its own words; None unless who knows the secret signed these very bytes."""
    fields = dict(part.strip().partition("=")[::2] for part in signature[:300].split(","))
    moment, mac = fields.get("t", ""), fields.get("v1", "")
    if not (moment.isascii() and moment.isdigit() and len(moment) < 12):
        return None
    expected = hmac.new(secret.encode(), moment.encode() + b"." + body, "sha256").hexdigest()
    return float(moment) if hmac.compare_digest(expected.encode(), mac.encode("utf-8", "replace")) else None
