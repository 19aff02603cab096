"""The service of the overview: asks the other rooms, stores nothing."""

from collections.abc import Callable, Mapping

from skyloom.core.operation import Caller
from skyloom.core.resources import NOTHING, Resources
from skyloom.ports.clock import Clock
from skyloom.ports.door import Handlers, Query
from skyloom.ports.store import Snapshot, Store
from skyloom.rooms.jobs.reading import occupancy
from skyloom.rooms.overview import model
from skyloom.rooms.overview.explainers import Count, Explainer


class Overview:
    """The whole at a glance.

    Args:
        capacity: all that the pools have, when asked.
        about: version and address of this control plane, and the free bytes of its disk, when asked.
        explainers: prefix of an id (``job``) → who explains such things.
        counts: noun in the plural → who counts them.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        capacity: Callable[[], Resources],
        about: Callable[[], tuple[str, str, int]],
        explainers: Mapping[str, Explainer],
        counts: Mapping[str, Count],
    ) -> None:
        self._store = store
        self._clock = clock
        self._capacity = capacity
        self._about = about
        self._explainers = dict(explainers)
        self._counts = dict(counts)
        self._started = clock.monotonic()

    def handlers(self) -> Handlers:
        return {model.GetStatus: Query(self.status), model.Why: Query(self.why)}

    def status(self, ask: model.GetStatus, by: Caller) -> model.CloudStatus:
        version, url, disk_free_bytes = self._about()

        def work(view: Snapshot) -> model.CloudStatus:
            return model.CloudStatus(
                version=version,
                url=url,
                uptime_s=self._clock.monotonic() - self._started,
                capacity=self._capacity(),
                used=sum((use.resources for use in occupancy(view).values()), NOTHING),
                disk_free_bytes=disk_free_bytes,
                counts={noun: dict(count(view, by.scope)) for noun, count in self._counts.items()},
            )

        return self._store.read(work)

    def why(self, ask: model.Why, by: Caller) -> model.Explanation:
        explain = self._explainers.get(ask.subject.partition("_")[0])
        if explain is None:
            raise model.SubjectMissing(
                f"Nothing here has the id {ask.subject!r}.",
                next_action="Give an id that starts with one of: "
                f"{', '.join(f'{prefix}_' for prefix in sorted(self._explainers))}.",
            )
        return self._store.read(lambda view: explain(view, ask.subject, by.project))
