"""The service of sampling: tells replicas what to keep, and in a loop has a job take it into a dataset.

How far samples are taken is not stored here but with the version that holds them (`Collect.taken`), so it moves in the transaction that
makes the version known, or not at all. A next draft is begun only when the job of the last one is over, so no two of them can commit.
"""

import logging
from collections.abc import Callable, Mapping

from skyloom.core.errors import SkyloomError
from skyloom.core.operation import Caller
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.data.making import Collect
from skyloom.rooms.data.service import Datasets, not_collected
from skyloom.rooms.registry.bundle import MANIFEST_FILE
from skyloom.rooms.registry.ports import VERSIONS
from skyloom.rooms.sampling import model, rules
from skyloom.rooms.sampling.model import SampleLog, SamplingStatus
from skyloom.rooms.sampling.ports import SAMPLE_LOGS
from skyloom.rooms.serving.model import Endpoint
from skyloom.rooms.serving.outlook import newest_revision
from skyloom.rooms.serving.ports import REPLICAS, REVISIONS, ReplicaFiles
from skyloom.rooms.serving.samples import SamplingRule
from skyloom.rooms.serving.samples_columns import columns_of

log = logging.getLogger("skyloom.sampling")

_TICK_S = 5.0
Find = Callable[[Snapshot, str, str], Endpoint]


class SampleLogs:
    """Sample logs of all projects.

    Args:
        find: an endpoint by its name or id, and project.
        key_of: the key of an endpoint's hashes, in hexadecimal, by the endpoint's id.
    """

    def __init__(
        self, store: Store, clock: Clock, data: Datasets, files: ReplicaFiles, find: Find, key_of: Callable[[str], str]
    ) -> None:
        self._store = store
        self._clock = clock
        self._data = data
        self._files = files
        self._find = find
        self._key_of = key_of
        self._trouble: dict[str, str] = {}

    def handlers(self) -> Handlers:
        return {
            model.LogTo: Change(self.log_to),
            model.GetSampling: Query(self.get),
            model.CollectSamples: Change(self.collect),
            model.LogOff: Change(self.log_off),
        }

    def log_to(self, tx: Transaction, ask: model.LogTo, by: Caller) -> SamplingStatus:
        endpoint = self._find(tx, ask.name, by.project)
        columns = self._columns(tx, endpoint)
        rules.check(ask.sampling, columns)
        known = tx.get(SAMPLE_LOGS, endpoint.id)
        self._check_dataset(tx, ask.dataset, endpoint, by)
        base: dict[str, int] = {}
        if known is not None:
            if known.dataset != ask.dataset and self._data.being_collected(tx, known.dataset, known.project):
                raise model.SamplesTaken(
                    f"Samples of {endpoint.name} are being taken into dataset {known.dataset!r}.",
                    next_action=f"Ask again when it is done: skyloom endpoint log {endpoint.name}.",
                )
            base = dict(self._taken(tx, known)) if known.dataset != ask.dataset else known.base
        made = SampleLog(
            id=endpoint.id,
            project=endpoint.project,
            version=known.version if known else 0,
            endpoint_name=endpoint.name,
            dataset=ask.dataset,
            sampling=ask.sampling,
            columns=columns,
            every_s=ask.every_s,
            keep_days=ask.keep_days,
            max_rows=ask.max_rows,
            max_bytes=ask.max_bytes,
            set_by=by.principal,
            base=base,
            begun_at=known.begun_at if known else self._clock.now(),
        )
        stored = tx.update(SAMPLE_LOGS, made) if known else tx.insert(SAMPLE_LOGS, made)
        return self._status(tx, stored)

    def get(self, ask: model.GetSampling, by: Caller) -> SamplingStatus:
        return self._store.read(lambda view: self._status(view, self._log_of(view, ask.name, by)))

    def collect(self, tx: Transaction, ask: model.CollectSamples, by: Caller) -> SamplingStatus:
        found = self._log_of(tx, ask.name, by)
        if not found.asked:
            found = tx.update(SAMPLE_LOGS, changed(found, {"asked": True}))
        return self._status(tx, found)

    def log_off(self, tx: Transaction, ask: model.LogOff, by: Caller) -> SamplingStatus:
        found = self._log_of(tx, ask.name, by)
        if found.active:
            found = tx.update(SAMPLE_LOGS, changed(found, {"active": False, "asked": True}))
        return self._status(tx, found)

    # The loop

    def tick(self) -> float:
        """One round. Returns the seconds after which the next one is due."""
        for found in self._store.read(lambda view: view.select(SAMPLE_LOGS)):
            try:
                self._look(found)
                self._trouble.pop(found.id, None)
            except SkyloomError as error:  # a quota or a budget, most likely; one holds up no other
                self._trouble[found.id] = error.message
            except Exception:
                log.exception("samples of endpoint %s wait; the others go on", found.id)
        return _TICK_S

    def _look(self, found: SampleLog) -> None:
        self._files.publish_sampling(found.id, self._rule(found) if found.active else None)
        taken, live = self._store.read(lambda view: (self._taken(view, found), self._live(view, found)))
        self._files.remove_samples(found.id, taken, live)
        now = self._clock.now()
        if not found.asked and now - found.begun_at < found.every_s:
            return
        samples = self._files.samples(found.id)
        self._store.write(lambda tx: self._begin(tx, found, samples, now))

    def _begin(self, tx: Transaction, found: SampleLog, samples: rules.Samples, now: float) -> None:
        fresh = tx.get(SAMPLE_LOGS, found.id)
        if fresh is None or fresh.version != found.version:
            return  # changed meanwhile; the next round decides on what is true then
        if self._data.being_collected(tx, fresh.dataset, fresh.project) is not None:
            return
        taken = self._taken(tx, fresh)
        ranges = rules.new_ranges(samples, taken, self._sources(tx, fresh, samples))
        if not ranges:
            if fresh.asked:
                tx.update(SAMPLE_LOGS, changed(fresh, {"asked": False}))
            return
        making = rules.making(fresh, ranges, rules.taken_after(samples, taken, ranges), now)
        caller = Caller.inside(fresh.set_by, fresh.project)
        folder = self._files.samples_folder(fresh.id)
        self._data.gather(tx, fresh.dataset, making, lambda draft_id: rules.job(fresh, draft_id, folder), caller)
        tx.update(SAMPLE_LOGS, changed(fresh, {"asked": False, "begun_at": now}))

    # Looking

    def _taken(self, view: Snapshot, found: SampleLog) -> Mapping[str, int]:
        """How far samples are taken: by the newest version that is known, and before that into other datasets."""
        newest = self._data.newest_collected(view, found.dataset, found.project)
        if newest is None or not isinstance(newest.making, Collect) or newest.making.endpoint != found.id:
            return found.base
        taken = newest.making.taken
        return {replica: max(taken.get(replica, 0), found.base.get(replica, 0)) for replica in {*taken, *found.base}}

    def _live(self, view: Snapshot, found: SampleLog) -> set[str]:
        live = view.select(REPLICAS, {"endpoint_id": found.id, "ended_at": None})
        return {replica.id for replica in live}

    def _sources(self, view: Snapshot, found: SampleLog, samples: rules.Samples) -> dict[str, rules.Source]:
        """Which revision each replica served."""
        sources = {}
        for replica_id in samples:
            replica = view.get(REPLICAS, replica_id)
            revision = view.get(REVISIONS, replica.revision_id) if replica else None
            if replica is not None and revision is not None and replica.endpoint_id == found.id:
                sources[replica_id] = (revision.number, revision.files[MANIFEST_FILE])
        return sources

    def _status(self, view: Snapshot, found: SampleLog) -> SamplingStatus:
        newest = self._data.newest_collected(view, found.dataset, found.project)
        draft = self._data.being_collected(view, found.dataset, found.project)
        samples, taken = self._files.samples(found.id), self._taken(view, found)
        waiting = sum(max(0, end - max(first, taken.get(replica, 0))) for replica, (first, end) in samples.items())
        return SamplingStatus(
            log=found,
            waiting_bytes=waiting,
            draft=draft.id if draft else "",
            newest=newest.number if newest else None,
            num_rows=newest.contents.num_rows if newest else 0,
            next_at=None if not waiting or draft else found.begun_at + found.every_s,
            message=self._trouble.get(found.id, "") or self._new_columns(view, found),
        )

    def _new_columns(self, view: Snapshot, found: SampleLog) -> str:
        """What nobody has said anything about yet, in words."""
        endpoint = self._find(view, found.id, found.project)
        fresh = [name for name in self._columns(view, endpoint) if name not in found.columns]
        if not fresh or not found.active:
            return ""
        named = ", ".join(fresh[:5])
        return f"The newest revision keeps nothing: nobody has said what may be kept of {named}. Say it all again: skyloom endpoint log."

    def _columns(self, view: Snapshot, endpoint: Endpoint) -> tuple[str, ...]:
        revision = newest_revision(view, endpoint)
        version = view.get(VERSIONS, revision.model_version) if revision else None
        return columns_of(version.manifest) if version else ()

    def _log_of(self, view: Snapshot, name: str, by: Caller) -> SampleLog:
        endpoint = self._find(view, name, by.project)
        found = view.get(SAMPLE_LOGS, endpoint.id)
        if found is None:
            raise model.NotSampled(
                f"No requests of {endpoint.name} are kept.",
                next_action=f"Begin: skyloom endpoint log {endpoint.name} --to DATASET --sample 0.1",
            )
        return found

    def _rule(self, found: SampleLog) -> SamplingRule:
        return SamplingRule(
            sampling=found.sampling, columns=found.columns, key=self._key_of(found.id), max_bytes=found.max_bytes
        )

    def _check_dataset(self, view: Snapshot, dataset: str, endpoint: Endpoint, by: Caller) -> None:
        others = view.select(SAMPLE_LOGS, {"project": by.project, "dataset": dataset})
        if any(other.id != endpoint.id for other in others):
            raise model.SamplesTaken(
                f"Dataset {dataset!r} takes the samples of {others[0].endpoint_name}.",
                next_action="Choose another name; a dataset holds the rows of one endpoint.",
            )
        newest = self._data.newest_collected(view, dataset, by.project)
        if newest is not None and isinstance(newest.making, Collect) and newest.making.endpoint != endpoint.id:
            raise model.SamplesTaken(
                f"Dataset {dataset!r} holds the samples of {newest.making.name}.", next_action="Choose another name."
            )
        if newest is None and self._data.has_versions(view, dataset, by.project):
            raise not_collected(dataset)
