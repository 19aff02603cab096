"""What callers of signed addresses sent, kept beside the log of events: for so long and so much, where events outlive it.

A body is gone when what it set off has begun, or, of a job, has ended. One whose delivery was refused stays for another try, until it is
old, or until others need its room. So what there is waits for its turn, or for somebody to look.
"""

from skyloom.core.events import Event, HookCalled, JobEnded
from skyloom.ports.clock import Clock
from skyloom.ports.store import Snapshot, Store, Transaction, Where, changed
from skyloom.rooms.jobs.model import Job
from skyloom.rooms.triggers.model import (
    BODY_FILE,
    BODY_VARIABLE,
    HookBodyGone,
    HookRoomFull,
    Run,
    RunTemplateJob,
    Trigger,
)
from skyloom.rooms.triggers.ports import HOOK_BODIES, HOOK_ROOM, HookBody, HookRoom

_ROOM = "hooks"
_AT_ONCE = 100
_MOST_AT_ONCE = 1_000
_RECORD_BYTES = 512  # beside the text: many small ones need room too
_LOOK_S = 60.0


class HookBodies:
    """Bodies of all projects.

    Args:
        keep_s: an older one is gone, whether it was delivered or not.
        keep_bytes: of all together.
    """

    def __init__(self, store: Store, clock: Clock, keep_s: float, keep_bytes: int) -> None:
        self._store = store
        self._clock = clock
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._look_at = 0.0

    def put(self, tx: Transaction, trigger: Trigger, call_id: str, text: str) -> HookCalled:
        """Keep a body; returns what the log of events says of it. Raises `HookRoomFull`."""
        size_bytes = len(text.encode()) + _RECORD_BYTES
        for old in tx.select(HOOK_BODIES, {"refused": True}, order="at", limit=_AT_ONCE):
            if self._has_room(tx, size_bytes):
                break
            self._forget(tx, old)
        if not self._has_room(tx, size_bytes):
            raise HookRoomFull(
                f"Bodies of {self._keep_bytes} bytes wait for their triggers.", next_action="Call it again later."
            )
        made = HookBody(
            id=call_id,
            project=trigger.project,
            trigger_id=trigger.id,
            at=self._clock.now(),
            size_bytes=size_bytes,
            text=text,
        )
        tx.insert(HOOK_BODIES, made)
        self._count(tx, size_bytes)
        return HookCalled(body_id=call_id)

    def read(self, view: Snapshot, body_id: str) -> str | None:
        """A body; None when it is gone."""
        found = view.get(HOOK_BODIES, body_id)
        return found.text if found is not None else None

    def gone(self) -> str:
        """Why a body is not there, in words."""
        return f"what the caller sent is gone: it is kept for {self._keep_s / 86_400:g} days"

    def done(self, tx: Transaction, event: Event) -> None:
        """What it set off never will begin."""
        self.drop(tx, body_of(event))

    def begun(self, tx: Transaction, body_id: str, run: Run, began: str) -> None:
        """What it set off has begun: a job reads it when it starts, all else has what it needs."""
        found = tx.get(HOOK_BODIES, body_id) if body_id else None
        if found is not None and isinstance(run, RunTemplateJob):
            tx.update(HOOK_BODIES, changed(found, {"job_id": began, "refused": False}))
        elif found is not None:
            self._forget(tx, found)

    def files_for(self, job: Job) -> dict[str, str]:
        """What a task of a job is given as a file. Raises `HookBodyGone` when that was too old, or another's."""
        body_id = job.spec.environment.get(BODY_VARIABLE, "")
        if not body_id:
            return {}
        found = self._store.read(lambda view: view.get(HOOK_BODIES, body_id))
        if found is None or found.project != job.project:
            raise HookBodyGone(
                f"What set off job {job.id} cannot be read: {self.gone()}, and until its job has ended.",
                next_action="Have the trigger's address called again.",
            )
        return {BODY_FILE: found.text}

    def on_job_ended(self, tx: Transaction, event: Event) -> None:
        """Forget what a job was set off with, in the transaction that ends it."""
        if isinstance(event.body, JobEnded):
            for found in tx.select(HOOK_BODIES, {"job_id": event.subject}):
                self._forget(tx, found)

    def drop(self, tx: Transaction, body_id: str) -> None:
        """Forget one; does nothing when it is gone."""
        if body_id and (found := tx.get(HOOK_BODIES, body_id)) is not None:
            self._forget(tx, found)

    def refused(self, tx: Transaction, event: Event) -> None:
        """Its delivery was refused; somebody may ask for another."""
        if (body_id := body_of(event)) and (found := tx.get(HOOK_BODIES, body_id)) is not None and not found.refused:
            tx.update(HOOK_BODIES, changed(found, {"refused": True}))

    def pass_over(self, tx: Transaction, trigger_id: str, *, refused: bool) -> None:
        """Forget what waits for a trigger, or what it refused. Of very many some stay until they are old. What jobs have stays."""
        where: Where = {"trigger_id": trigger_id, "refused": refused, "job_id": ""}
        for found in tx.select(HOOK_BODIES, where, limit=_MOST_AT_ONCE):
            self._forget(tx, found)

    def trim(self) -> None:
        """Forget what is too old, some at a time. Looks once a minute."""
        early_s = self._look_at - self._clock.monotonic()
        if early_s > 0:
            return
        horizon = self._clock.now() - self._keep_s

        def stale(view: Snapshot) -> list[HookBody]:
            return [one for one in view.select(HOOK_BODIES, order="at", limit=_AT_ONCE) if one.at < horizon]

        def forget(tx: Transaction) -> None:
            for one in stale(tx):
                self._forget(tx, one)

        found = self._store.read(stale)
        if found:
            self._store.write(forget)
        self._look_at = self._clock.monotonic() + (1.0 if len(found) == _AT_ONCE else _LOOK_S)

    def _has_room(self, view: Snapshot, size_bytes: int) -> bool:
        room = view.get(HOOK_ROOM, _ROOM)
        return (room.num_bytes if room else 0) + size_bytes <= self._keep_bytes

    def _forget(self, tx: Transaction, one: HookBody) -> None:
        tx.delete(HOOK_BODIES, one.id)
        self._count(tx, -one.size_bytes)

    def _count(self, tx: Transaction, more_bytes: int) -> None:
        room = tx.get(HOOK_ROOM, _ROOM)
        if room is None:
            tx.insert(HOOK_ROOM, HookRoom(id=_ROOM, project="", num_bytes=more_bytes))
        else:
            tx.update(HOOK_ROOM, changed(room, {"num_bytes": room.num_bytes + more_bytes}))


def body_of(event: Event) -> str:
    """The id of what the caller sent; "" for another event, or one that still holds it itself."""
    return event.body.body_id if isinstance(event.body, HookCalled) else ""
