"""The service of roll-outs: takes them in, and in a loop brings them forward, or back."""

import logging
from collections.abc import Iterable, Sequence
from functools import partial

from skyloom.core.errors import SkyloomError
from skyloom.core.events import Moved
from skyloom.core.ids import Ids
from skyloom.core.labels import matches
from skyloom.core.operation import Caller, Page
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.lookup import listed, owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.devices import rollout as nouns
from skyloom.rooms.devices import rules
from skyloom.rooms.devices.board import FleetBoard, Place, read_places
from skyloom.rooms.devices.fleets import Fleets
from skyloom.rooms.devices.model import Device
from skyloom.rooms.devices.ports import DEVICE_REPORTS, DEVICES, ROLLOUTS
from skyloom.rooms.devices.rollout import ROLLOUT_MOVES, Rollout, RolloutState, RolloutStatus
from skyloom.rooms.devices.rules import RolloutTurn, Seat
from skyloom.rooms.devices.service import manifest_content, manifest_digest
from skyloom.rooms.registry.model import NEWEST, ModelVersion
from skyloom.rooms.registry.service import Registry

log = logging.getLogger("skyloom.devices")
_TICK_S, _LOOK_S, _IDLE_S = 0.2, 5.0, 60.0
_LIVE = (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK)


class Rollouts:
    """Roll-outs of all projects."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        outbox: Outbox,
        registry: Registry,
        blobs: Blobs,
        board: FleetBoard,
        fleets: Fleets,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._registry = registry
        self._blobs = blobs
        self._board = board
        self._fleets = fleets
        self._seen: dict[str, tuple[int, float]] = {}

    def handlers(self) -> Handlers:
        return {
            nouns.CreateRollout: Change(self.create, before=self.check),
            nouns.ListRollouts: Query(self.list),
            nouns.GetRollout: Query(self.get),
            nouns.PauseRollout: Change(self.pause),
            nouns.ResumeRollout: Change(self.resume),
            nouns.AbortRollout: Change(self.abort),
        }

    # Taking in

    def check(self, ask: nouns.CreateRollout, by: Caller) -> None:
        """Refuse stages that cannot be meant, and bring the manifest to the blobs: devices fetch it as a file."""
        if list(ask.stages) != sorted(set(ask.stages)) or ask.stages[-1] != 100:
            raise nouns.StagesUnclear(
                f"The stages {', '.join(map(str, ask.stages))} do not grow to 100.",
                next_action="Write growing shares that end with 100, for example 10,50,100.",
            )
        version = self._store.read(lambda view: self._version(view, ask, by))
        if version.manifest.service is not None:
            raise nouns.NotForDevices(
                f"{version.model} version {version.number} is a service with code of its own.",
                next_action="Devices serve models: roll out a version without code.",
            )
        self._blobs.put([manifest_content(version)])
        self._fleets.read_profile(version)

    def create(self, tx: Transaction, ask: nouns.CreateRollout, by: Caller) -> RolloutStatus:
        version = self._version(tx, ask, by)
        devices = tx.select(DEVICES, {"project": by.project})
        if nobody := rules.nobody_meant(devices, ask.labels):
            raise nouns.NobodyMeant(
                nobody,
                next_action="Choose among these, see them all (skyloom device list), or let one in first: skyloom device enrol NAME.",
            )
        for other in tx.select(ROLLOUTS, {"project": by.project, "state": _LIVE}):
            both = [
                device.name
                for device in devices
                if matches(device.labels, ask.labels) and matches(device.labels, other.labels)
            ]
            if both or other.labels == ask.labels:
                raise nouns.RolloutInTheWay(
                    f"Roll-out {other.id} of {other.model} version {other.number} is {other.state.value} on devices that this one is for"
                    + (f", {both[0]} for one." if both else "."),
                    next_action=f"Wait for it, or abort it: skyloom rollout abort {other.id}.",
                )
        made = Rollout(
            id=self._ids.new("roll"),
            project=by.project,
            model=version.model,
            model_version=version.id,
            number=version.number,
            manifest=manifest_digest(version),
            files=tuple(file.digest for file in version.manifest.files),
            labels=ask.labels,
            stages=ask.stages,
            pause_s=ask.pause_s,
            min_healthy=ask.min_healthy,
            probation_s=ask.probation_s,
            patience_s=ask.patience_s,
            created_at=self._clock.now(),
            created_by=by.principal,
        )
        self._fleets.watch(tx, made, version)
        return self.status(tx, tx.insert(ROLLOUTS, made))

    def pause(self, tx: Transaction, ask: nouns.PauseRollout, by: Caller) -> RolloutStatus:
        found = self.find(tx, ask.rollout_id, by.project)
        if found.state is not RolloutState.PAUSED:
            found = self._moved(tx, found, RolloutState.PAUSED, f"Paused by {by.principal}.")
        return self.status(tx, found)

    def resume(self, tx: Transaction, ask: nouns.ResumeRollout, by: Caller) -> RolloutStatus:
        found = self.find(tx, ask.rollout_id, by.project)
        if found.state is not RolloutState.RUNNING:
            found = self._moved(tx, found, RolloutState.RUNNING, "")
        return self.status(tx, found)

    def abort(self, tx: Transaction, ask: nouns.AbortRollout, by: Caller) -> RolloutStatus:
        found = self.find(tx, ask.rollout_id, by.project)
        if found.state not in (RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK):
            found = self._moved(tx, found, RolloutState.ROLLING_BACK, f"Aborted by {by.principal}.")
            self._take_back(tx, found)
        return self.status(tx, found)

    def _version(self, view: Snapshot, ask: nouns.CreateRollout, by: Caller) -> ModelVersion:
        return self._registry.version(view, ask.model, ask.version or NEWEST, by.project)

    # Looking

    def find(self, view: Snapshot, rollout_id: str, project: str) -> Rollout:
        """A roll-out of a project. Raises `RolloutMissing`."""
        found = owned(view, ROLLOUTS, rollout_id, project)
        if found is None:
            raise nouns.RolloutMissing(
                f"There is no roll-out {rollout_id}.", next_action="List them: skyloom rollout list."
            )
        return found

    def get(self, ask: nouns.GetRollout, by: Caller) -> RolloutStatus:
        return self._store.read(lambda view: self.status(view, self.find(view, ask.rollout_id, by.project)))

    def list(self, ask: nouns.ListRollouts, by: Caller) -> Page[RolloutStatus]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, ROLLOUTS, where, ask).shown(partial(self.status, view)))

    def status(self, view: Snapshot, rollout: Rollout) -> RolloutStatus:
        """A roll-out and how far it is."""
        waits = rollout.state is RolloutState.RUNNING and rollout.passed_at is not None
        return RolloutStatus(
            rollout=rollout,
            share=rollout.stages[rollout.stage],
            progress=rollout.final or rules.progress_of(self._seats_now(view, rollout)),
            next_at=rollout.passed_at + rollout.pause_s if waits and rollout.passed_at is not None else None,
        )

    def _seats_now(self, view: Snapshot, rollout: Rollout) -> Sequence[Seat]:
        live = view.select(ROLLOUTS, {"project": rollout.project, "state": _LIVE})
        return self._seats(read_places(view, rollout.project).values(), rollout, live)

    def _seats(self, places: Iterable[Place], rollout: Rollout, live: Sequence[Rollout]) -> Sequence[Seat]:
        now, busy = self._clock.now(), {other.id for other in live}
        return [
            rules.seat_of(device, report, rollout, device.rollout in busy, now)
            for device, report in places
            if device.rollout == rollout.id or matches(device.labels, rollout.labels)
        ]

    # The loop

    def tick(self) -> float:
        """Bring every roll-out that has not ended one step on. Returns the seconds until the next step may be due."""
        live = self._store.read(lambda view: view.select(ROLLOUTS, {"state": _LIVE}))
        projects = {rollout.project for rollout in live}
        self._board.keep_only(projects)
        self._seen = {rollout.id: self._seen[rollout.id] for rollout in live if rollout.id in self._seen}
        for project in projects:
            mine = [rollout for rollout in live if rollout.project == project]
            stirred, places = self._store.read(partial(self._board.look, project=project))
            for rollout in mine:
                if stirred or self._is_due(rollout):
                    self._try(rollout, places.values(), mine)
        return _TICK_S if live else _IDLE_S

    def _is_due(self, rollout: Rollout) -> bool:
        """It changed, or time alone may have changed what is to be done: a pause is over, a device was silent for too long."""
        version, due_at = self._seen.get(rollout.id, (0, 0.0))
        return rollout.version != version or self._clock.now() >= due_at

    def _try(self, rollout: Rollout, places: Iterable[Place], live: Sequence[Rollout]) -> None:
        now, passed_at = self._clock.now(), rollout.passed_at
        ends_at = now if passed_at is None else passed_at + rollout.pause_s
        self._seen[rollout.id] = (rollout.version, min(now + _LOOK_S, ends_at if ends_at > now else now + _LOOK_S))
        try:
            turn = rules.take_turn(rollout, self._seats(places, rollout, live), now)
            if _changes(rollout, turn):
                self._step(rollout)
        except SkyloomError as error:
            log.warning("roll-out %s waits: %s", rollout.id, error)
        except Exception:
            log.exception("roll-out %s is left as it is; the others go on", rollout.id)

    def _step(self, rollout: Rollout) -> None:
        def work(tx: Transaction) -> None:
            now_is = tx.get(ROLLOUTS, rollout.id)
            if now_is is None or now_is.state not in _LIVE:
                return
            seats = self._seats_now(tx, now_is)
            turn = rules.take_turn(now_is, seats, self._clock.now())  # decided again on what is true now
            if not _changes(now_is, turn):
                return
            ends = ROLLOUT_MOVES.is_terminal(turn.state)
            final = rules.progress_of(seats) if ends else None
            kept = changed(now_is, {"stage": turn.stage, "passed_at": turn.passed_at, "final": final})
            stays = turn.state is now_is.state
            kept = tx.update(ROLLOUTS, kept) if stays else self._moved(tx, kept, turn.state, turn.message)
            for device_id in turn.assign:
                self._assign(tx, device_id, kept)
            if kept.state is RolloutState.ROLLING_BACK and now_is.state is not kept.state:
                self._take_back(tx, kept)

        self._store.write(work)

    def _assign(self, tx: Transaction, device_id: str, rollout: Rollout) -> None:
        device = tx.get(DEVICES, device_id)
        if device is not None:
            facts: dict[str, object] = {
                "fallback": rules.fallback_of(device, tx.get(DEVICE_REPORTS, device.id)),
                "wanted": rollout.model_version,
                "rollout": rollout.id,
            }
            self._order(tx, device, facts | {"probation_s": rollout.probation_s})

    def _take_back(self, tx: Transaction, rollout: Rollout) -> None:
        for device in tx.select(DEVICES, {"project": rollout.project, "rollout": rollout.id}):
            self._order(tx, device, {"wanted": device.fallback, "fallback": "", "probation_s": 0.0})

    def _order(self, tx: Transaction, device: Device, facts: dict[str, object]) -> None:
        number, now = device.assignment + 1, self._clock.now()
        self._board.mark(tx.update(DEVICES, changed(device, {**facts, "assignment": number, "ordered_at": now})))

    def _moved(self, tx: Transaction, rollout: Rollout, state: RolloutState, message: str) -> Rollout:
        ROLLOUT_MOVES.check(rollout.id, rollout.state, state)
        moved = Moved(before=rollout.state, after=state, reason="rollout", message=message)
        self._outbox.publish(tx, rollout.project, rollout.id, moved)
        stored = tx.update(ROLLOUTS, changed(rollout, {"state": state, "message": message}))
        if ROLLOUT_MOVES.is_terminal(state):
            self._fleets.ended(tx, stored)
        return stored


def _changes(rollout: Rollout, turn: RolloutTurn) -> bool:
    now_is = (rollout.state, rollout.stage, rollout.passed_at)
    return bool(turn.assign) or now_is != (turn.state, turn.stage, turn.passed_at)
