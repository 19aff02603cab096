"""A cost room over a store in memory, with an outbox that tells it what ended and a list of what still runs."""

from collections.abc import Iterable

import msgspec

from skyloom.core.events import Event, EventBody, TaskEnded
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import EVENTS, Outbox
from skyloom.ports.store import Snapshot
from skyloom.rooms.cost.budget import Allowance, BudgetStatus, Judgement, Period, SetBudget, Spender, Wish
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.cost.model import CostBy, CostReport, GetCost
from skyloom.rooms.cost.prices import PriceBook
from skyloom.rooms.cost.pricing import Prices
from skyloom.rooms.cost.service import Cost
from skyloom.stores.memory import MemoryStore

ANN = Caller(principal="ann", project="p", scope="*", rights=frozenset())
ONE = Resources(cpus=1, memory_bytes=0)
UNLIMITED = Allowance()
# One CPU costs a tenth of a cent a second.
BOOK = PriceBook(cpu_usd_per_hour=3.6)


def task(task_id: str, started_at: float, ended_at: float, job_id: str = "job_1", **labels: str) -> TaskEnded:
    return TaskEnded(
        job_id=job_id,
        task_id=task_id,
        resources=ONE,
        started_at=started_at,
        ended_at=ended_at,
        labels=labels,
    )


class Place:
    """The room, and the jobs that it is told of."""

    def __init__(self, now: float = 1_000.0, book: PriceBook = BOOK) -> None:
        self.store, self.clock, ids = MemoryStore(), MemoryClock(now), CountingIds()
        self.jobs: dict[str, Spender] = {}
        self.outbox = Outbox(self.clock)
        self.prices = Prices(self.store, self.clock, ids)
        self.budgets = Budgets(self.store, self.clock, ids, self.outbox, self.prices)
        self.cost = Cost(self.store, self.clock, self.prices, self.budgets)
        self.outbox.subscribers = [self.cost.on_task_ended]
        self.prices.pools = lambda view: ("local", "spot")
        self.prices.install(book)
        self.cost.unfinished, self.budgets.spenders = self.unfinished, self.spenders

    # What the jobs room says

    def unfinished(self, view: Snapshot, project: str, now: float) -> Iterable[TaskEnded]:
        return [task for job in self.spenders(view, {project}, now) for task in job.running]

    def spenders(self, view: Snapshot, projects: Iterable[str] | None, now: float) -> list[Spender]:
        wanted = [job for job in self.jobs.values() if projects is None or job.project in projects]
        return [
            msgspec.structs.replace(
                job, running=tuple(msgspec.structs.replace(task, ended_at=now) for task in job.running)
            )
            for job in wanted
        ]

    # What happens

    def submit(
        self,
        job_id: str,
        *,
        expected_s: float | None = None,
        limits: Allowance = UNLIMITED,
        user: str = "ann",
        project: str = "p",
        grace_s: float = 2.0,
        workers: int = 1,
    ) -> None:
        wish = Wish(
            job_id=job_id,
            project=project,
            user=user,
            resources=ONE,
            num_workers=workers,
            grace_s=grace_s,
            expected_s=expected_s,
            limits=limits,
        )
        self.store.write(lambda tx: self.budgets.reserve(tx, wish))

    def start(
        self,
        job_id: str,
        *,
        limits: Allowance = UNLIMITED,
        user: str = "ann",
        project: str = "p",
        grace_s: float = 2.0,
        workers: int = 1,
    ) -> None:
        now = self.clock.now()
        running = tuple(task(f"{job_id}.1.{rank}", now, now, job_id, user=user) for rank in range(workers))
        self.jobs[job_id] = Spender(
            job_id=job_id,
            project=project,
            user=user,
            resources=ONE,
            num_held=workers,
            running=running,
            grace_s=grace_s,
            limits=limits,
        )

    def tell_to_stop(self, job_id: str) -> None:
        self.jobs[job_id] = msgspec.structs.replace(self.jobs[job_id], told_at=self.clock.now())

    def end(self, job_id: str) -> None:
        """A job that was started is over."""
        job, now = self.jobs.pop(job_id), self.clock.now()
        for one in job.running:
            self.publish(msgspec.structs.replace(one, ended_at=now), job.project)
        self.store.write(lambda tx: self.budgets.release(tx, job_id))

    def publish(self, body: EventBody, project: str = "p") -> None:
        self.store.write(lambda tx: self.outbox.publish(tx, project, "job_1", body))

    # What people ask

    def set(
        self, period: Period = Period.TOTAL, user: str | None = None, by: Caller = ANN, **limits: float
    ) -> BudgetStatus:
        ask = SetBudget(limits=Allowance(**limits), user=user, period=period)
        return self.store.write(lambda tx: self.budgets.set(tx, ask, by))

    def judge(self) -> Judgement:
        return self.budgets.judge(own=True)

    def report(self, by: CostBy = CostBy.JOB, since: float = 0.0, who: Caller = ANN) -> CostReport:
        return self.cost.get(GetCost(by=by, since=since, limit=1_000), who)

    def events(self) -> list[Event]:
        return [event for _, event in self.store.read(lambda view: view.entries(EVENTS, limit=100_000))]
