"""Brings an endpoint's replicas to what is wanted.

Each look reads one snapshot, lets `fleet` decide, prepares what is outside of the database (blobs are immutable and cost nothing when they
are not used), and commits a replica together with its job in one transaction that decides again on what is true then. So a
crash at any point leaves either both or none, and the next look goes on from there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from skyloom.core.errors import SkyloomError
from skyloom.core.events import Moved
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Outbox
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.jobs.model import CancelJob, ReadLog, SubmitJob
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.serving import fleet, predictions, rules
from skyloom.rooms.serving.model import Endpoint, Replica, ReplicaState, Revision
from skyloom.rooms.serving.outlook import Outlook, revisions_of
from skyloom.rooms.serving.ports import ENDPOINTS, REPLICAS, ReplicaFiles
from skyloom.rooms.serving.replicas import plan_of, spec_of

_CALM_S, _SETTLING_S, _EAGER_S = 1.0, 0.2, 0.1
_MAX_WORDS = 600
Draft = tuple[Replica, Revision, str]
"""A replica that is about to start, its revision, and the digest of its plan; its job's id is still open."""


class Reconciler:
    """Starts and stops replicas of all projects, and gives an endpoint its ports.

    Args:
        drop_fallback: what is kept for going back makes room for what waits.
        notice: told which collections a look wrote to.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        outbox: Outbox,
        jobs: Jobs,
        blobs: Blobs,
        files: ReplicaFiles,
        outlook: Outlook,
        *,
        drop_fallback: Callable[[Transaction, Endpoint], object],
        notice: Callable[[set[str]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._jobs = jobs
        self._blobs = blobs
        self._files = files
        self._outlook = outlook
        self._drop_fallback = drop_fallback
        self._notice = notice

    def bring_about(self, endpoint: Endpoint) -> float:
        """Take one endpoint's next steps; returns the seconds after which to look again."""
        if not endpoint.rest_port and not endpoint.stopped_by:
            endpoint = self._give_ports(endpoint)
        now = self._clock.now()
        situation, revisions = self._store.read(
            lambda view: (self._outlook.situation(view, endpoint), revisions_of(view, endpoint))
        )
        steps = fleet.reconcile(situation, now)
        if steps.nothing:
            settling = any(item.state in (ReplicaState.STARTING, ReplicaState.STOPPING) for item in situation.seen)
            return min(_SETTLING_S if settling else _CALM_S, steps.wait_s or _CALM_S)
        words = {replica.id: self._words(replica) for replica in steps.ended if replica.failed}
        drafts = [draft for start in steps.starts for draft in self._drafts(endpoint, revisions, start, now)]
        touched: set[str] = set()

        def work(tx: Transaction) -> None:
            self._apply(tx, endpoint, drafts, words, now)
            touched.update(tx.touched)

        self._store.write(work)
        self._notice(touched)
        return _EAGER_S

    def _drafts(
        self, endpoint: Endpoint, revisions: Mapping[int, Revision], start: rules.ReplicaStart, now: float
    ) -> Iterator[Draft]:
        """Replicas to start, their plans in the blobs; a revision that is not there is nobody's."""
        revision = revisions.get(start.number)
        for _ in range(start.count if revision else 0):
            assert revision is not None
            replica = Replica(
                id=self._ids.new(predictions.REPLICA_PREFIX),
                project=endpoint.project,
                endpoint_id=endpoint.id,
                revision_id=revision.id,
                revision_number=revision.number,
                job_id="",
                private=start.private,
                created_at=now,
            )
            plan = plan_of(endpoint, revision, replica.id, self._files, start.private)
            yield replica, revision, self._blobs.put([plan])[0]

    def _apply(
        self, tx: Transaction, endpoint: Endpoint, drafts: Sequence[Draft], words: dict[str, str], now: float
    ) -> None:
        fresh = tx.get(ENDPOINTS, endpoint.id)
        if fresh is None or fresh.version != endpoint.version:
            return  # deployed or stopped meanwhile; the next tick decides on what is true then
        steps = fleet.reconcile(self._outlook.situation(tx, endpoint), now)
        caller = Caller.inside(endpoint.created_by, endpoint.project)
        for replica in steps.ended:
            said = words.get(replica.id) or replica.message
            tx.update(REPLICAS, changed(replica, {"message": said}))
            if replica.failed:
                news = Moved(before="serving", after="ended", reason="failed", message=said)
                self._outbox.publish(tx, endpoint.project, endpoint.id, news)
        for replica in steps.stop:
            tx.update(REPLICAS, replica)
            self._jobs.cancel(tx, CancelJob(job_id=replica.job_id), caller)
        if steps.drop_fallback:
            self._drop_fallback(tx, fresh)
        left = {(start.number, start.private): start.count for start in steps.starts}
        for replica, revision, plan_digest in drafts:
            slot = (replica.revision_number, replica.private)
            if left.get(slot, 0) > 0:
                left[slot] -= 1
                ask = SubmitJob(spec=spec_of(endpoint, revision, plan_digest))
                job = self._jobs.submit(tx, ask, caller, refuse=False).job
                tx.insert(REPLICAS, changed(replica, {"job_id": job.id}))

    def _give_ports(self, endpoint: Endpoint) -> Endpoint:
        """Choose the two ports that the endpoint keeps."""
        taken = {
            port
            for other in self._store.read(lambda view: view.select(ENDPOINTS))
            for port in (other.rest_port, other.grpc_port)
        }
        ports: list[int] = []
        while len(ports) < 2:
            port = self._files.free_port()
            if port not in taken and port not in ports:
                ports.append(port)
        given = changed(endpoint, {"rest_port": ports[0], "grpc_port": ports[1]})
        return self._store.write(lambda tx: tx.update(ENDPOINTS, given))

    def _words(self, replica: Replica) -> str:
        """Why a replica ended, with the last lines it printed."""
        caller = Caller.inside("serving", replica.project)
        try:
            text, offset = "", 0
            while True:
                part = self._jobs.read_log(ReadLog(job_id=replica.job_id, offset=offset), caller)
                text = (text + part.text)[-_MAX_WORDS:]
                if part.ended or part.next_offset == offset:
                    break
                offset = part.next_offset
        except SkyloomError:
            return replica.message
        lines = [line for line in text.strip().splitlines()[-5:] if line not in replica.message]
        return " | ".join([replica.message, *lines])[:_MAX_WORDS]
