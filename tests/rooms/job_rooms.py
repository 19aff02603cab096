"""The service of jobs and its loop over any store and engine."""

from pathlib import Path

from skyloom.core.errors import Unavailable
from skyloom.core.ids import Ids
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Outbox
from skyloom.ports.engine import Engine
from skyloom.ports.store import Store
from skyloom.rooms.jobs.contact import Contact
from skyloom.rooms.jobs.hands import Hands, OwnHands
from skyloom.rooms.jobs.launches import Launches
from skyloom.rooms.jobs.loop import JobLoop
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import Pool
from skyloom.rooms.secrets.service import Secrets
from skyloom.stores.sealing import AesGcmSealer


class NoTokens:
    """A `PoolTokens` that keeps none."""

    def keep(self, pool: str, token: str) -> None: ...

    def file(self, pool: str) -> Path:
        return Path("/nonexistent") / pool

    def drop(self, pool: str) -> None: ...


def no_engine(pool: Pool, token_file: Path, *, check: bool) -> Engine:
    raise Unavailable(f"Nobody answers at {pool.address}.", next_action="Start it.")


def job_rooms(
    store: Store,
    clock: Clock,
    ids: Ids,
    outbox: Outbox,
    engine: Engine,
    blobs: Blobs,
    plans: Plans | None,
    fleet: Fleet | None = None,
    waits: Waits | None = None,
    hands: Hands | None = None,
    eyes: Hands | None = None,
) -> tuple[Jobs, JobLoop]:
    """Wire them as the composition root does."""
    secrets = Secrets(store, clock, ids, AesGcmSealer(), b"k" * 32)
    if plans is not None:
        plans.secrets = secrets
    writer, waits = JobWriter(clock, outbox), waits or Waits()
    fleet = fleet or Fleet(engine, no_engine, NoTokens(), lambda name: None)
    jobs = Jobs(store, clock, ids, writer, fleet, blobs, waits, secrets)
    launches = Launches(store, clock, writer, fleet, plans, waits, hands or OwnHands())
    contact = Contact(fleet, eyes or OwnHands(), patience_s=0.02)
    return jobs, JobLoop(store, clock, writer, fleet, launches, contact, waits)
