"""The service of triggers: keeps them, and in a loop deals with what happened since.

The log of events is the queue, and each trigger's cursor is its place in it. What is run is queued or submitted in the transaction that
moves the cursor, so no crash loses an event or runs it twice; whether a queued call is made twice is the functions room's matter.
A slot of a clock and a call of a signed address are written into the log first, and are then events as any other.
"""

import logging
from collections.abc import Callable
from functools import partial

import msgspec

from skyloom.core import digests
from skyloom.core.errors import REFUSALS, LimitExceeded
from skyloom.core.events import Event, SlotCame, TriggerEvent
from skyloom.core.ids import Ids
from skyloom.core.isolation import isolated
from skyloom.core.operation import Caller, Done, Page
from skyloom.ports.clock import Clock
from skyloom.ports.door import EVENTS, Change, Handlers, Outbox, Query
from skyloom.ports.lookup import listed, named
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.functions.model import InvocationState, RetryInvocation
from skyloom.rooms.functions.ports import INVOCATIONS
from skyloom.rooms.functions.service import Functions
from skyloom.rooms.schedules.rules import next_slot
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.rooms.triggers import model, rules
from skyloom.rooms.triggers.bodies import HookBodies, body_of
from skyloom.rooms.triggers.happenings import BODIES, kind_and_facts
from skyloom.rooms.triggers.model import (
    Delivery,
    DeliveryStatus,
    Happening,
    IssuedTrigger,
    Trigger,
    TriggerState,
    TriggerStatus,
)
from skyloom.rooms.triggers.ports import DELIVERIES, HOOKS_SEEN, TRIGGERS, HookSeen
from skyloom.rooms.triggers.running import Runner

log = logging.getLogger("skyloom.triggers")
_TICK_S, _SHORTEST_S, _IDLE_S = 1.0, 0.05, 60.0
_MAX_WORDS = 500
_AT_ONCE = 20  # events of one trigger, before the next has its turn
_CHUNK = 1_000
_KEEP_CURSOR_EVERY = 500  # events that were none of its own; that many are read again after a restart
_SHOWN = 20


class Triggers:
    """Triggers of all projects.

    Args:
        secret_of: what calls of a trigger's address are signed with, by its id.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        outbox: Outbox,
        tenancy: Tenancy,
        functions: Functions,
        runner: Runner,
        bodies: HookBodies,
        secret_of: Callable[[str], str],
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._tenancy = tenancy
        self._functions = functions
        self._runner = runner
        self._bodies = bodies
        self._secret_of = secret_of
        self._looked: dict[str, int] = {}  # trigger → number of the newest event that was none of its own
        # Told which collections a round wrote to; whoever builds the cloud lets it wake the loops that watch them.
        self.notice: Callable[[set[str]], None] = lambda touched: None

    def handlers(self) -> Handlers:
        return {
            model.CreateTrigger: Change(
                self.create,
                before=self.check,
                kept=lambda made: msgspec.structs.replace(made, secret=""),
                shown=self._with_secret,
            ),
            model.GetTrigger: Query(self.get),
            model.ListTriggers: Query(self.list),
            model.PauseTrigger: Change(self.pause),
            model.ResumeTrigger: Change(self.resume),
            model.Redeliver: Change(self.redeliver),
            model.DeleteTrigger: Change(self.delete),
        }

    # Asking

    def check(self, ask: model.CreateTrigger, by: Caller) -> None:
        """Refuse what could never happen, or never run."""
        rules.check(ask.when, self._clock.now())
        self._runner.check(ask.run, by)

    def create(self, tx: Transaction, ask: model.CreateTrigger, by: Caller) -> IssuedTrigger:
        if tx.count(TRIGGERS, {"project": by.project}) >= model.MAX_TRIGGERS:
            raise model.TooManyTriggers(
                f"A project has {model.MAX_TRIGGERS} triggers at most.", next_action="Delete one: skyloom trigger list."
            )
        self._runner.check_named(tx, ask.run, by.project)
        now = self._clock.now()
        made = Trigger(
            id=self._ids.new("trigger"),
            project=by.project,
            name=ask.name,
            when=ask.when,
            run=ask.run,
            max_per_hour=ask.max_per_hour,
            created_at=now,
            created_by=by.principal,
            owner=by.principal,
            token_id=by.token_id,
            cursor=_newest(tx),
            next_slot_at=self._slot_after(ask.when, now),
        )
        return self._with_secret(IssuedTrigger(trigger=tx.insert(TRIGGERS, made)))

    def _with_secret(self, issued: IssuedTrigger) -> IssuedTrigger:
        if issued.trigger.when.kind is not Happening.HTTP:
            return issued
        secret = self._secret_of(issued.trigger.id)
        return IssuedTrigger(trigger=issued.trigger, hook=hook_of(issued.trigger), secret=secret)

    def find(self, view: Snapshot, name: str, project: str) -> Trigger:
        """A trigger by its name. Raises `TriggerMissing`."""
        found = named(view, TRIGGERS, name, project)
        if found is None:
            raise model.TriggerMissing(
                f"There is no trigger {name!r}.", next_action="List yours: skyloom trigger list."
            )
        return found

    def get(self, ask: model.GetTrigger, by: Caller) -> TriggerStatus:
        return self._store.read(lambda view: self._status(view, self.find(view, ask.name, by.project)))

    def _status(self, view: Snapshot, trigger: Trigger) -> TriggerStatus:
        newest = view.select(DELIVERIES, {"trigger_id": trigger.id}, order="number", newest_first=True, limit=_SHOWN)
        told = tuple(_told(view, delivery) for delivery in newest)
        return TriggerStatus(trigger=trigger, hook=hook_of(trigger), deliveries=told)

    def list(self, ask: model.ListTriggers, by: Caller) -> Page[Trigger]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, TRIGGERS, where, ask))

    def pause(self, tx: Transaction, ask: model.PauseTrigger, by: Caller) -> Trigger:
        trigger = self.find(tx, ask.name, by.project)
        if trigger.state is TriggerState.PAUSED:
            return trigger
        return tx.update(TRIGGERS, rules.put(trigger, TriggerState.PAUSED, f"paused by {by.principal}"))

    def resume(self, tx: Transaction, ask: model.ResumeTrigger, by: Caller) -> Trigger:
        trigger = self.find(tx, ask.name, by.project)
        if trigger.state is TriggerState.ACTIVE and trigger.token_id == by.token_id and not ask.skip:
            return trigger
        self._runner.check_named(tx, trigger.run, by.project)
        if trigger.state is not TriggerState.ACTIVE:
            trigger = rules.put(trigger, TriggerState.ACTIVE, "")
        news = {"owner": by.principal, "token_id": by.token_id, "hour_at": 0.0, "num_in_hour": 0}
        if ask.skip:
            news["cursor"] = _newest(tx)
            self._bodies.pass_over(tx, trigger.id, refused=False)
            news["next_slot_at"] = self._slot_after(trigger.when, self._clock.now())
        return tx.update(TRIGGERS, changed(trigger, news))

    def redeliver(self, tx: Transaction, ask: model.Redeliver, by: Caller) -> DeliveryStatus:
        trigger = self.find(tx, ask.name, by.project)
        found = tx.get(DELIVERIES, _delivery_id(trigger, ask.number))
        status = _told(tx, found) if found else None
        if found is None or status is None or not (found.message or status.state is InvocationState.DEAD):
            raise model.NothingToRepeat(
                f"Delivery {ask.number} of {trigger.name} is no failure, or not kept.",
                next_action=f"See: skyloom trigger show {trigger.name}.",
            )
        if found.began:
            self._functions.retry(tx, RetryInvocation(invocation_id=found.began), by)
        else:
            began = self._runner.run(tx, trigger, self._whole(tx, found), by, found.body_id)
            self._bodies.begun(tx, found.body_id, trigger.run, began)
            found = tx.update(DELIVERIES, changed(found, {"began": began, "message": ""}))
        return _told(tx, found)

    def _whole(self, view: Snapshot, delivery: Delivery) -> TriggerEvent:
        """What is told again, with what the caller sent. Raises `NothingToRepeat` when that is gone."""
        if not delivery.body_id:
            return delivery.event
        body = self._bodies.read(view, delivery.body_id)
        if body is None:
            raise model.NothingToRepeat(
                f"Delivery {delivery.number} cannot be repeated: {self._bodies.gone()}.",
                next_action="Ask the caller to send it again.",
            )
        return msgspec.structs.replace(delivery.event, body=body)

    def delete(self, tx: Transaction, ask: model.DeleteTrigger, by: Caller) -> Done:
        trigger = self.find(tx, ask.name, by.project)
        for delivery in tx.select(DELIVERIES, {"trigger_id": trigger.id}):
            tx.delete(DELIVERIES, delivery.id)
        for refused in (False, True):
            self._bodies.pass_over(tx, trigger.id, refused=refused)
        tx.delete(TRIGGERS, trigger.id)
        return Done()

    # Signed addresses

    def take_call(self, trigger_id: str, signature: str, body: bytes) -> str:
        """A call of a trigger's address; returns the id of what it became. The same bytes again give the same, and no second event.

        Raises `HookBodyRefused`, `HookRefused`, `HookStale`, `HookPaused`, `TooManyHookCalls`, `HookRoomFull`.
        """
        if len(body) > model.MAX_HOOK_BYTES:
            raise model.HookBodyRefused(
                f"The body has more than {model.MAX_HOOK_BYTES} bytes.", next_action="Send where it lies instead."
            )
        now = self._clock.now()
        signed_at = rules.moment_of(signature, self._secret_of(trigger_id), body)
        if signed_at is None:
            raise _refused()
        if abs(now - signed_at) > model.TOLERANCE_S:
            raise model.HookStale(
                f"The call was signed {abs(now - signed_at):.0f} s from now.",
                next_action="Sign it when it is sent, by a clock that is right.",
            )
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise model.HookBodyRefused("The body is no text.", next_action="Send UTF-8, best JSON.") from error
        seen_id = digests.of_bytes(f"{trigger_id} {signed_at:.0f} ".encode() + body).removeprefix("sha256:")[:40]
        touched: set[str] = set()

        def work(tx: Transaction) -> bool:
            trigger = tx.get(TRIGGERS, trigger_id)
            if trigger is None or trigger.when.kind is not Happening.HTTP:
                raise _refused()
            if tx.get(HOOKS_SEEN, seen_id) is not None:
                return True
            if trigger.state is not TriggerState.ACTIVE:
                raise model.HookPaused(f"The trigger is {trigger.state.value}.", next_action="Call it again later.")
            _forget_calls(tx, trigger_id, now - 2 * model.TOLERANCE_S)
            if tx.count(HOOKS_SEEN, {"trigger_id": trigger_id}) >= trigger.max_per_hour:
                return False  # what was forgotten stays forgotten, so nothing is raised here
            seen = HookSeen(id=seen_id, project=trigger.project, at=max(now, signed_at), trigger_id=trigger_id)
            tx.insert(HOOKS_SEEN, seen)
            called = self._bodies.put(tx, trigger, f"{trigger.id}.{seen_id}", text)
            self._outbox.publish(tx, trigger.project, trigger.id, called)
            touched.update(tx.touched)
            return True

        if not self._store.write(work):
            raise model.TooManyHookCalls(
                "The address was called too often in the last minutes.", next_action="Call it again in ten minutes."
            )
        self.notice(touched)
        return f"call_{seen_id}"

    # The loop

    def tick(self) -> float:
        """Deal with what happened since. Returns the seconds until there may be more."""
        self._bodies.trim()
        active = self._store.read(lambda view: view.select(TRIGGERS, {"state": TriggerState.ACTIVE}))
        ids = {trigger.id for trigger in active}
        self._looked = {key: number for key, number in self._looked.items() if key in ids}
        wait_s = _TICK_S if active else _IDLE_S
        for trigger in active:
            with isolated(log, f"trigger {trigger.id}"):
                wait_s = min(wait_s, self._strike(trigger), self._advance(trigger.id))
        return wait_s

    def _strike(self, trigger: Trigger) -> float:
        """Write down that a slot of a clock came; the seconds until the next."""
        now = self._clock.now()
        if trigger.next_slot_at is None:
            return _TICK_S
        if trigger.next_slot_at > now:
            return max(_SHORTEST_S, min(_TICK_S, trigger.next_slot_at - now))
        slot = trigger.next_slot_at

        def work(tx: Transaction) -> None:
            if tx.get(TRIGGERS, trigger.id) == trigger:
                tx.update(TRIGGERS, changed(trigger, {"next_slot_at": self._slot_after(trigger.when, now)}))
                self._outbox.publish(tx, trigger.project, trigger.id, SlotCame(slot=slot))

        self._store.write(work)
        return _SHORTEST_S

    def _advance(self, trigger_id: str) -> float:
        """Deal with the next events of one trigger, in order."""
        for _ in range(_AT_ONCE):
            found = self._store.read(partial(self._next, trigger_id=trigger_id))
            if found is None:
                return _TICK_S
            trigger, number, happened = found
            if happened is None:
                self._keep_cursor(trigger, number)
                return _TICK_S
            if not self._deal(trigger, number, *happened):
                return _TICK_S
        return 0.0

    def _next(self, view: Snapshot, trigger_id: str) -> tuple[Trigger, int, tuple[Event, TriggerEvent] | None] | None:
        """A trigger, its next event and its number (without any: up to which there are none). None while it may not go on."""
        trigger = view.get(TRIGGERS, trigger_id)
        if trigger is None or trigger.state is not TriggerState.ACTIVE or _is_busy(view, trigger):
            return None
        after = max(trigger.cursor, self._looked.get(trigger.id, 0))
        while chunk := view.entries(EVENTS, {"project": trigger.project}, after=after, limit=_CHUNK):
            for number, event in chunk:
                if not isinstance(event.body, BODIES[trigger.when.kind]):
                    continue
                told = kind_and_facts(view, event)
                if told is not None and rules.is_meant(trigger, event, *told):
                    return trigger, number, (event, rules.told(trigger, number, event, *told))
            after = chunk[-1][0]
        return trigger, after, None

    def _keep_cursor(self, trigger: Trigger, number: int) -> None:
        self._looked[trigger.id] = number
        if number - trigger.cursor >= _KEEP_CURSOR_EVERY:
            self._store.write(lambda tx: _update_if_same(tx, trigger, changed(trigger, {"cursor": number})))

    def _deal(self, trigger: Trigger, number: int, event: Event, told: TriggerEvent) -> bool:
        """One event; False when the trigger cannot go on now."""
        touched: set[str] = set()
        now, body_id = self._clock.now(), body_of(event)

        def deliver(tx: Transaction) -> bool:
            if tx.get(TRIGGERS, trigger.id) != trigger:
                return False
            halted = self._halted(tx, trigger, now)
            if halted is not None:
                tx.update(TRIGGERS, halted)
                return False
            depth = rules.depth_of(event)
            if depth >= model.MAX_DEPTH:
                tx.update(TRIGGERS, rules.cut(trigger, number, depth))
                self._bodies.done(tx, event)
                return True
            body = self._bodies.read(tx, body_id) if body_id else told.body
            if body is None:
                return self._write(tx, trigger, number, told, "", self._bodies.gone(), now, body_id)
            whole = msgspec.structs.replace(told, body=body)
            began = self._runner.run(tx, trigger, whole, self._as(trigger), body_id)
            self._write(tx, trigger, number, told, began, "", now, body_id)
            self._bodies.begun(tx, body_id, trigger.run, began)
            touched.update(tx.touched)
            return True

        try:
            goes_on = self._store.write(deliver)
        except REFUSALS as refusal:
            if isinstance(refusal, LimitExceeded) and refusal.code == "too_many_waiting":
                return False  # the queue of the function is full; the event waits in the log
            why = str(refusal)[:_MAX_WORDS]

            def refuse(tx: Transaction) -> bool:
                self._bodies.refused(tx, event)
                return self._write(tx, trigger, number, told, "", why, now, body_id)

            goes_on = self._store.write(refuse)
        self.notice(touched)
        return goes_on

    def _halted(self, view: Snapshot, trigger: Trigger, now: float) -> Trigger | None:
        """The trigger as it is when it may not go on: stopped without the right, paused when it ran away."""
        right = self._runner.right_of(trigger.run)
        lost = self._tenancy.lost_right(view, trigger.token_id, trigger.project, right, trigger.owner)
        if lost:
            return rules.put(trigger, TriggerState.STOPPED, f"{lost}; who resumes it gives it his own rights")
        gone = self._runner.missing(view, trigger.run, trigger.project)
        if gone:
            return rules.put(trigger, TriggerState.STOPPED, gone)
        if rules.ran_away(trigger, now):
            why = f"it was set off {trigger.num_in_hour} times within an hour; resume it if that is right"
            return rules.put(trigger, TriggerState.PAUSED, why)
        return None

    def _as(self, trigger: Trigger) -> Caller:
        """The trigger as who it acts for: in its own project, and with no right that a room would look at."""
        return Caller(
            principal=trigger.owner,
            project=trigger.project,
            scope=trigger.project,
            rights=frozenset(),
            token_id=trigger.token_id,
        )

    def _write(
        self,
        tx: Transaction,
        trigger: Trigger,
        number: int,
        told: TriggerEvent,
        began: str,
        refused: str,
        now: float,
        body_id: str,
    ) -> bool:
        fresh = tx.get(TRIGGERS, trigger.id)
        if fresh != trigger:
            return False
        made = Delivery(
            id=_delivery_id(trigger, number),
            project=trigger.project,
            trigger_id=trigger.id,
            number=number,
            at=now,
            event=told,
            began=began,
            message=refused,
            body_id=body_id,
        )
        tx.insert(DELIVERIES, made)
        where = {"trigger_id": trigger.id}
        if tx.count(DELIVERIES, where) > model.NUM_KEPT:
            tx.delete(DELIVERIES, tx.select(DELIVERIES, where, order="number", limit=1)[0].id)
        tx.update(TRIGGERS, rules.delivered(trigger, number, began, refused, now))
        return True

    def _slot_after(self, when: model.When, now: float) -> float | None:
        return next_slot(when.cron, when.time_zone, now) if when.cron else None


def hook_of(trigger: Trigger) -> str:
    """The path of a trigger's signed address; "" of one that waits for no calls."""
    return f"/v1/hooks/{trigger.id}" if trigger.when.kind is Happening.HTTP else ""


def _refused() -> model.HookRefused:
    return model.HookRefused(
        "There is no such address, or the call is not signed with its secret.",
        next_action="Send Skyloom-Signature: t=<seconds>,v1=<HMAC-SHA256 of '<t>.<body>'>.",
    )


def _forget_calls(tx: Transaction, trigger_id: str, before: float) -> None:
    """Forget some calls that are too old to come again: of this trigger, and of any."""
    for where in ({"trigger_id": trigger_id}, {}):
        for old in tx.select(HOOKS_SEEN, where, order="at", limit=_AT_ONCE):
            if old.at < before:
                tx.delete(HOOKS_SEEN, old.id)


def _newest(view: Snapshot) -> int:
    newest = view.entries(EVENTS, limit=1, newest_first=True)
    return newest[0][0] if newest else 0


def _is_busy(view: Snapshot, trigger: Trigger) -> bool:
    """The call that it queued last has not ended."""
    call = view.get(INVOCATIONS, trigger.waits_for) if trigger.waits_for else None
    return call is not None and call.state in (InvocationState.QUEUED, InvocationState.RUNNING)


def _update_if_same(tx: Transaction, before: Trigger, after: Trigger) -> None:
    if tx.get(TRIGGERS, before.id) == before:
        tx.update(TRIGGERS, after)


def _delivery_id(trigger: Trigger, number: int) -> str:
    return f"{trigger.id}.{number}"


def _told(view: Snapshot, delivery: Delivery) -> DeliveryStatus:
    call = view.get(INVOCATIONS, delivery.began) if delivery.began.startswith("inv_") else None
    return DeliveryStatus(delivery=delivery, state=call.state if call else None)
