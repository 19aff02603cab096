"""The service of scheduling: keeps the rulebook. What follows from it is decided in the loop of jobs."""

import msgspec

from skyloom.core.errors import InvalidInput, LimitExceeded
from skyloom.core.operation import Caller
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.scheduling.model import MAX_QUOTAS, Quota, Rulebook
from skyloom.rooms.scheduling.ports import RULEBOOK_ID, RULEBOOKS, StoredRulebook, current_rulebook
from skyloom.rooms.scheduling.rulebook import GetQuota, GetScheduling, ProjectQuota, SetQuota, SetScheduling
from skyloom.rooms.tenancy.ports import PROJECTS
from skyloom.rooms.tenancy.rules import ALL_PROJECTS, project_missing


class LimitsOutOfOrder(InvalidInput):
    """The borders of the LAS queues do not rise."""


class QuotaUpsideDown(InvalidInput):
    """A project is guaranteed more than it may hold."""


class QuotasFull(LimitExceeded):
    """The rulebook holds no more quotas."""


class Scheduling:
    """How one cloud schedules."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def handlers(self) -> Handlers:
        return {
            GetScheduling: Query(self.get),
            SetScheduling: Change(self.set),
            GetQuota: Query(self.get_quota),
            SetQuota: Change(self.set_quota),
        }

    def get(self, ask: GetScheduling, by: Caller) -> Rulebook:
        book = self._store.read(current_rulebook)
        if by.scope == ALL_PROJECTS:
            return book
        return msgspec.structs.replace(book, quotas={name: q for name, q in book.quotas.items() if name == by.scope})

    def set(self, tx: Transaction, ask: SetScheduling, by: Caller) -> Rulebook:
        limits = ask.las_limits_gpu_s
        if limits is not None and list(limits) != sorted(set(limits)):
            raise LimitsOutOfOrder(
                f"The limits {', '.join(f'{limit:g}' for limit in limits)} do not rise.",
                next_action="Give them from the smallest to the largest: 3250,7200.",
            )
        given = {name: getattr(ask, name) for name in ask.__struct_fields__ if getattr(ask, name) is not None}
        return self._write(tx, msgspec.structs.replace(current_rulebook(tx), **given), by)

    def get_quota(self, ask: GetQuota, by: Caller) -> ProjectQuota:
        def work(view: Snapshot) -> ProjectQuota:
            _check_project(view, ask.name, by)
            return ProjectQuota(name=ask.name, quota=current_rulebook(view).quotas.get(ask.name, Quota()))

        return self._store.read(work)

    def set_quota(self, tx: Transaction, ask: SetQuota, by: Caller) -> ProjectQuota:
        _check_project(tx, ask.name, by)
        for name in ("cpus", "gpus", "memory_bytes"):
            least, most = getattr(ask.guaranteed, name, None), getattr(ask.ceiling, name, None)
            if least is not None and most is not None and least > most:
                raise QuotaUpsideDown(
                    f"Project {ask.name} would be guaranteed {least:g} {name} and may hold {most:g} at most.",
                    next_action="Raise the ceiling, or lower the guarantee.",
                )
        quota = Quota(guaranteed=ask.guaranteed, ceiling=ask.ceiling, weight=ask.weight)
        book = current_rulebook(tx)
        quotas = {**book.quotas, ask.name: quota}
        if len(quotas) > MAX_QUOTAS:
            raise QuotasFull(
                f"{MAX_QUOTAS:,} projects have a quota; {ask.name} would be one more.",
                next_action="Leave this project without one: it has no guarantee, no ceiling and weight 1.",
            )
        self._write(tx, msgspec.structs.replace(book, quotas=quotas), by)
        return ProjectQuota(name=ask.name, quota=quota)

    def _write(self, tx: Transaction, book: Rulebook, by: Caller) -> Rulebook:
        now, stored = self._clock.now(), tx.get(RULEBOOKS, RULEBOOK_ID)
        if stored is not None:
            tx.update(RULEBOOKS, changed(stored, {"rulebook": book, "written_by": by.principal, "written_at": now}))
        else:
            made = StoredRulebook(
                id=RULEBOOK_ID, project=ALL_PROJECTS, rulebook=book, written_by=by.principal, written_at=now
            )
            tx.insert(RULEBOOKS, made)
        return book


def _check_project(view: Snapshot, name: str, by: Caller) -> None:
    if by.scope not in (ALL_PROJECTS, name) or view.get(PROJECTS, name) is None:
        raise project_missing(name)
