"""The service of jobs and its loop over any store and engine."""

from skyloom.core.ids import Ids
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Outbox
from skyloom.ports.engine import Engine
from skyloom.ports.store import Store
from skyloom.rooms.jobs.loop import JobLoop
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.secrets.service import Secrets
from skyloom.stores.sealing import AesGcmSealer


def job_rooms(
    store: Store, clock: Clock, ids: Ids, outbox: Outbox, engine: Engine, blobs: Blobs, plans: Plans | None
) -> tuple[Jobs, JobLoop]:
    """Wire them as the composition root does."""
    secrets = Secrets(store, clock, ids, AesGcmSealer(), b"k" * 32)
    if plans is not None:
        plans.secrets = secrets
    writer, waits = JobWriter(clock, outbox), Waits()
    jobs = Jobs(store, clock, ids, writer, engine, blobs, waits, secrets)
    return jobs, JobLoop(store, clock, writer, engine, plans, waits)
