"""The service of pools: adds them, tells how they stand, removes them, and keeps looking at them."""

import re
import threading
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from skyloom.core.operation import Caller, Page
from skyloom.core.resources import NOTHING, Resources
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.store import Store, Transaction
from skyloom.rooms.pools import model, rules
from skyloom.rooms.pools.fleet import Fleet, PoolLink
from skyloom.rooms.pools.hearing import Hearing
from skyloom.rooms.pools.model import LOCAL, MachineUse, Pool, PoolRemoved, PoolState, PoolStatus
from skyloom.rooms.pools.ports import HEARD, POOLS, Abandon, GivenUp, Occupancy, PoolTokens, Use
from skyloom.rooms.tenancy.rules import ALL_PROJECTS

_LOOK_S = 2.0
_ADDRESS = re.compile(r"ray://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})")
_LAST_PORT = 65_535


class Pools:
    """All pools of a cloud."""

    def __init__(
        self, store: Store, clock: Clock, fleet: Fleet, tokens: PoolTokens, occupancy: Occupancy, abandon: Abandon
    ) -> None:
        self._store = store
        self._clock = clock
        self._fleet = fleet
        self._tokens = tokens
        self._occupancy = occupancy
        self._abandoned = abandon
        self._hearing = Hearing(store, clock)
        self._adding: list[str] = []  # names whose tokens are kept for a pool that is being reached
        self._lock = threading.Lock()

    def handlers(self) -> Handlers:
        return {
            model.AddPool: Change(self.add, before=self.reach),
            model.GetPool: Query(self.get),
            model.ListPools: Query(self.list),
            model.RemovePool: Change(self.remove),
        }

    def reach(self, ask: model.AddPool, by: Caller) -> None:
        """Refuse a name that is taken, an address where nobody answers, and a token that is not the pool's."""
        if ask.name == LOCAL:
            raise model.PoolReserved(
                "The pool 'local' is this machine itself; it is always there.", next_action="Choose another name."
            )
        _check_address(ask.address)
        if self._stored(ask.name) is not None:
            return  # the insert says so
        pool = Pool(
            id=ask.name,
            project=ALL_PROJECTS,
            address=ask.address,
            labels=ask.labels,
            advertised_url=ask.advertised_url.rstrip("/"),
            shared_folder=ask.shared_folder,
            added_at=self._clock.now(),
            added_by=by.principal,
        )
        # Kept before the pool is stored: a crash in between leaves a file that the next pool of this name replaces.
        try:
            with self._lock:
                self._adding.append(ask.name)
                self._tokens.keep(ask.name, ask.token)
            self._fleet.reach(pool)
        finally:
            with self._lock:
                self._adding.remove(ask.name)
            self._drop_unused(ask.name)

    def add(self, tx: Transaction, ask: model.AddPool, by: Caller) -> PoolStatus:
        link = self._fleet.reached(ask.name)
        pool = tx.get(POOLS, ask.name) or (link.pool if link and link.pool.address == ask.address else None)
        if pool is None:
            raise model.PoolDown(f"Pool {ask.name} was not reached.", next_action="Add it again.")
        pool = tx.insert(POOLS, pool)  # says so when there is one of this name
        self._hearing.greet(pool.id)
        return _status(replace(link or PoolLink(pool), pool=pool), {})

    def get(self, ask: model.GetPool, by: Caller) -> PoolStatus:
        found = self._statuses(ask.name)
        if not found:
            raise _missing(ask.name)
        return found[0]

    def list(self, ask: model.ListPools, by: Caller) -> Page[PoolStatus]:
        return Page(items=self._statuses()[: ask.limit])

    def remove(self, tx: Transaction, ask: model.RemovePool, by: Caller) -> PoolRemoved:
        """Nothing of it remains or all of it: what is given up ends in the transaction that removes the pool."""
        if ask.name == LOCAL:
            raise model.PoolReserved(
                "The pool 'local' is this machine itself; it is always there.",
                next_action="Give its work elsewhere with --pool; it cannot be removed.",
            )
        if tx.get(POOLS, ask.name) is None:
            raise _missing(ask.name)
        given_up = self._abandon(tx, ask.name, by) if ask.gone else self._check_idle(tx, ask.name)
        tx.delete(POOLS, ask.name)
        if tx.get(HEARD, ask.name) is not None:
            tx.delete(HEARD, ask.name)
        return PoolRemoved(name=ask.name, num_lost=given_up.num_tasks, num_again=given_up.num_again)

    def _check_idle(self, tx: Transaction, name: str) -> GivenUp:
        busy = sum(use.num_tasks for (pool, _), use in self._occupancy(tx).items() if pool == name)
        if busy:
            gone = "" if self._fleet.is_up(name) else f"; if it is gone for good: skyloom pool remove {name} --gone"
            raise model.PoolBusy(
                f"{busy} task{'s run' if busy > 1 else ' runs'} on pool {name}.",
                next_action=f"Wait for them or cancel them (skyloom pool show {name}), then remove it{gone}.",
            )
        return GivenUp()

    def _abandon(self, tx: Transaction, name: str, by: Caller) -> GivenUp:
        rules.check_gone(name, None if self._fleet.is_up(name) else self._hearing.silent_s(name))
        heard_at = self._hearing.at(name, tx.get(HEARD, name))
        why = f"lost with pool {name}, which is gone for good, as {by.principal} said"
        return self._abandoned(tx, name, heard_at, why)

    def capacity(self) -> Resources:
        """All that the machines of pools that are up have."""
        return sum((ground.machine.total for ground in self._fleet.grounds()), NOTHING)

    def tick(self) -> float:
        """Look at every pool. Returns the seconds after which the next look is due."""
        links = self._fleet.links()  # read first: whatever is in it was stored before
        stored, asked_at = self._store.read(lambda view: view.select(POOLS)), self._clock.now()
        try:
            self._fleet.refresh(stored)
            self._hearing.note(self._fleet.links(), asked_at)
        finally:  # only once nothing is placed on a removed pool any more, and whatever became of the looking
            for name in links.keys() - {LOCAL}:
                self._drop_unused(name)
        return _LOOK_S

    def _drop_unused(self, name: str) -> None:
        """Forget the token of a pool that is neither stored nor being added, even again under the same name."""
        with self._lock:
            if name not in self._adding and self._fleet.reached(name) is None and self._stored(name) is None:
                self._tokens.drop(name)

    def _stored(self, name: str) -> Pool | None:
        return self._store.read(lambda view: view.get(POOLS, name))

    def _statuses(self, only: str = "") -> tuple[PoolStatus, ...]:
        """How the pools that are stored stand, this machine first; or one of them."""
        stored, heard, used = self._store.read(
            lambda view: (view.select(POOLS), {one.id: one for one in view.select(HEARD)}, self._occupancy(view))
        )
        links = self._fleet.links()
        wanted = {LOCAL: links[LOCAL], **{pool.id: links.get(pool.id) or PoolLink(pool) for pool in stored}}
        return tuple(
            msgspec.structs.replace(_status(link, used), heard_at=self._hearing.at(name, heard.get(name)))
            for name, link in wanted.items()
            if only in ("", name)
        )


def _check_address(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) <= _LAST_PORT:
        raise model.NotAPoolAddress(
            f"{address!r} is no address of a pool.",
            next_action="Write ray://HOST:PORT with the client port of the cluster: ray://10.0.0.5:10001.",
        )


def _missing(name: str) -> model.PoolMissing:
    return model.PoolMissing(f"There is no pool {name!r}.", next_action="List them: skyloom pool list.")


def _status(link: PoolLink, used: Mapping[tuple[str, str], Use]) -> PoolStatus:
    name = link.pool.id
    held = {machine: use for (pool, machine), use in used.items() if pool == name}
    machines = [
        MachineUse(
            name=machine.name,
            total=machine.total,
            used=held.get(machine.name, Use()).resources,
            num_tasks=held.get(machine.name, Use()).num_tasks,
            labels=machine.labels,
        )
        for machine in link.machines
    ]
    trouble, down = link.trouble, not link.is_up
    return PoolStatus(
        pool=link.pool,
        state=PoolState.DOWN if down else PoolState.UP,
        message=trouble.message if trouble else ("It is not connected yet." if down else ""),
        next_action=trouble.next_action if trouble else "",
        total=sum((machine.total for machine in link.machines), NOTHING),
        used=sum((use.resources for use in held.values()), NOTHING),
        num_tasks=sum(use.num_tasks for use in held.values()),
        machines=tuple(machines),
    )
