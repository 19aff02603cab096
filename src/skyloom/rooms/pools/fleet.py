"""The fleet: the engines of all pools, which of them can be reached, and what machines they have.

Nothing here is truth: which pools there are stands in the store; whether one is up is seen by asking it. Engines are asked by
`refresh` only, in a loop of its own, so that a pool that is down delays nobody who merely wants to know about machines.
"""

import logging
import operator
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from skyloom.core.errors import SkyloomError
from skyloom.ports.engine import Ability, Engine, GangWish, Machine
from skyloom.rooms.pools.model import LOCAL, Pool, PoolDown, PoolMissing
from skyloom.rooms.pools.ports import Engines, PoolTokens

log = logging.getLogger("skyloom.pools")


class MachineName(NamedTuple):
    """A machine of a pool."""

    pool: str
    machine: str

    @property
    def node(self) -> str:
        """What the scheduler calls it: unique over all pools."""
        return f"{self.pool}/{self.machine}"


class PoolMachine(NamedTuple):
    """A machine as a place to run on.

    Attributes:
        machine: with its pool's labels, and ``pool`` for its name.
        island: what a gang never leaves: the pool; or the machine itself, where its pool's machines share no folder.
    """

    name: MachineName
    machine: Machine
    island: str


@dataclass(frozen=True)
class PoolLink:
    """What is known of one pool. ``engine`` is None until it was reached once; ``trouble`` says why it is down."""

    pool: Pool
    engine: Engine | None = None
    machines: tuple[Machine, ...] = ()
    trouble: SkyloomError | None = None

    @property
    def is_up(self) -> bool:
        """It answered the last time that it was asked."""
        return self.engine is not None and self.trouble is None


class Fleet:
    """All engines. Thread-safe: what is known of a pool is replaced, never changed."""

    def __init__(self, local: Engine, make: Engines, tokens: PoolTokens, stored: Callable[[str], Pool | None]) -> None:
        self._make = make
        self._tokens = tokens
        self._stored = stored
        # Reached, and about to be stored: part of the fleet from then on. Lost without harm.
        self._reached: dict[str, PoolLink] = {}
        self._grounds: dict[bool, tuple[tuple[PoolLink, ...], list[PoolMachine]]] = {}
        self._wishes: Mapping[str, Sequence[GangWish]] = {}
        pool = Pool(id=LOCAL, project="*", address=LOCAL, added_at=0.0, added_by="install")
        self._links: dict[str, PoolLink] = {LOCAL: PoolLink(pool, local, tuple(local.machines()))}
        self._lock = threading.Lock()

    def links(self) -> Mapping[str, PoolLink]:
        """What is known of every pool now, by name; this machine first."""
        for name, link in list(self._reached.items()):
            pool = self._stored(name)
            if pool is None:
                continue
            self._reached.pop(name, None)
            if pool.added_at == link.pool.added_at:
                self._attach(replace(link, pool=pool))
            else:
                _close(link)  # another pool of this name was stored first
        with self._lock:
            return dict(self._links)

    def engine(self, pool: str) -> Engine:
        """The engine of a pool. Raises `PoolDown`, `PoolMissing` for one that was removed."""
        link = self.links().get(pool or LOCAL)
        if link is None and self._stored(pool) is None:
            raise PoolMissing(
                f"Pool {pool} is no more.",
                next_action="Add it again by this name if it still exists: what its tasks printed stayed there.",
            )
        if link is None or link.engine is None or not link.is_up:
            why = link.trouble.message if link and link.trouble else "It is not connected yet."
            raise PoolDown(
                f"Pool {pool} cannot be reached: {why}",
                next_action=f"What runs there goes on; it is asked again by itself. See: skyloom pool show {pool}.",
            )
        return link.engine

    def up(self) -> dict[str, Engine]:
        """The engines of all pools that can be reached."""
        return {name: link.engine for name, link in self.links().items() if link.engine and link.is_up}

    def is_up(self, pool: str) -> bool:
        """Whether a pool of the fleet answered the last time. Looks at nothing but memory, so it may be asked in a transaction."""
        with self._lock:
            link = self._links.get(pool)
        return link is not None and link.is_up

    def abilities(self, pools: Sequence[str] = ()) -> frozenset[Ability]:
        """What at least one of these pools, or with none named of all that are up, can do."""
        engines = self.up()
        return frozenset().union(*(engine.abilities for name, engine in engines.items() if not pools or name in pools))

    def growing(self) -> list[Pool]:
        """The pools that are up and may get more machines."""
        return [link.pool for link in self.links().values() if link.pool.grows and link.is_up]

    def wish(self, wishes: Mapping[str, Sequence[GangWish]]) -> None:
        """What waits now, by pool, all of it. Pools are told when they are looked at next."""
        self._wishes = wishes

    def suspect(self, pool: str, trouble: SkyloomError) -> None:
        """Somebody could not reach a pool; it counts as down until `refresh` reaches it again. This machine is never down."""
        with self._lock:
            link = self._links.get(pool)
            if link is not None and pool != LOCAL and link.trouble is None:
                log.warning("pool %s is down: %s", pool, trouble)
                self._links[pool] = replace(link, trouble=trouble)

    def reached(self, name: str) -> PoolLink | None:
        """A pool that was reached and is not stored yet."""
        return self._reached.get(name)

    def reach(self, pool: Pool) -> None:
        """Make the engine of a new pool and look at its machines; it is used once it is stored. Raises what `Engines` raises."""
        engine = self._make(pool, self._tokens.file(pool.id), check=True)
        try:
            link = PoolLink(pool, engine, tuple(engine.machines()))
        except BaseException:
            engine.close()
            raise
        before, self._reached[pool.id] = self._reached.get(pool.id), link
        _close(before)

    def _attach(self, link: PoolLink) -> None:
        """Take a pool that was reached into the fleet, in the place of an earlier one of its name."""
        with self._lock:
            before = self._links.get(link.pool.id)
            self._links[link.pool.id] = link
        if before is not None and before.engine is not link.engine:
            _close(before)

    def refresh(self, stored: Iterable[Pool]) -> None:
        """Ask every pool for its machines, connect those that are not connected, let go of those that are no longer stored."""
        wanted = {pool.id: pool for pool in stored}
        for name, link in self.links().items():
            # Asked again: what was added since `stored` was read is not to be let go of.
            if name != LOCAL and name not in wanted and self._stored(name) is None:
                self._let_go(link)
        with self._lock:
            for name, pool in wanted.items():
                self._links.setdefault(name, PoolLink(pool))  # known at once, though it may take long to be reached
        for name in (*wanted, LOCAL):
            known = self.links().get(name)
            if known is not None:
                self._look(known)

    def _let_go(self, link: PoolLink) -> None:
        with self._lock:
            is_current = self._links.get(link.pool.id) is link
            if is_current:
                del self._links[link.pool.id]
        if is_current:
            _close(link)

    def _look(self, link: PoolLink) -> None:
        """Ask one pool. What is known of it may have been replaced meanwhile, even by another pool of its name: that stands."""
        name, seen = link.pool.id, link
        try:
            seen = replace(seen, engine=link.engine or self._make(link.pool, self._tokens.file(name), check=False))
            seen = replace(seen, machines=tuple(seen.engine.machines()) if seen.engine else (), trouble=None)
        except SkyloomError as trouble:
            seen = replace(seen, trouble=trouble)
        except Exception:
            log.exception("pool %s cannot be asked", name)
            seen = replace(seen, trouble=PoolDown("Asking it failed.", next_action="Read the control plane's log."))
        if seen.engine is not None and seen.is_up and seen.pool.grows:
            self._tell(name, seen.engine)
        with self._lock:
            is_current = self._links.get(name) is link
            if is_current and seen != link:
                self._links[name] = seen
        if not is_current and seen.engine is not link.engine:
            _close(seen)
        if is_current and bool(seen.trouble) != bool(link.trouble):
            log.warning("pool %s is %s", name, f"down: {seen.trouble}" if seen.trouble else "up again")

    def _tell(self, name: str, engine: Engine) -> None:
        """Tell a pool what waits. One that cannot be told is as good as before for what runs there."""
        try:
            engine.wants(self._wishes.get(name, ()))
        except Exception as trouble:
            log.warning("pool %s is not told what waits: %s", name, trouble)

    def close(self) -> None:
        """Let go of all pools but this machine, which is not ours to close. Tasks go on running."""
        for name, link in self.links().items():
            if name != LOCAL:
                self._let_go(link)

    def grounds(self, *, down: bool = False) -> list[PoolMachine]:
        """All machines of pools that are up; with ``down`` the last seen of the others too. The same list while nothing changes."""
        links = tuple(self.links().values())
        known = self._grounds.get(down)
        if known is None or len(known[0]) != len(links) or any(map(operator.is_not, known[0], links)):
            found = [_ground(link, machine) for link in links if down or not link.trouble for machine in link.machines]
            known = self._grounds[down] = (links, found)
        return known[1]


def _close(link: PoolLink | None) -> None:
    if link is not None and link.engine is not None:
        link.engine.close()


def _ground(link: PoolLink, machine: Machine) -> PoolMachine:
    name, labels = MachineName(link.pool.id, machine.name), {"pool": link.pool.id, **link.pool.labels, **machine.labels}
    alone = link.pool.id != LOCAL and not link.pool.shared_folder
    return PoolMachine(
        name, Machine(name=machine.name, total=machine.total, labels=labels), name.node if alone else link.pool.id
    )
