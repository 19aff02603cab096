"""The service of functions: keeps them, queues calls of them, and in a loop makes the calls.

A function is an endpoint that scales to zero, so `serving` runs it and the gateway wakes it. A call that waits is a record: it is
written as running before it is sent, and as ended after it was answered. So a crash in between sends it again, with the same key.
Nothing waits for an answer inside of the loop (`ports.Errands`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from skyloom.core.events import Origin
from skyloom.core.ids import Ids
from skyloom.core.isolation import isolated
from skyloom.core.operation import Caller, Done, Page, Right
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query, present_cause
from skyloom.ports.lookup import listed, named, owned
from skyloom.ports.store import Not, Scalar, Snapshot, Store, Transaction, Where, changed
from skyloom.rooms.cost import tallies
from skyloom.rooms.cost.model import CostBy
from skyloom.rooms.functions import model, rules
from skyloom.rooms.functions.ended import EndedCalls
from skyloom.rooms.functions.model import CloudFunction, FunctionStatus, Invocation, InvocationState
from skyloom.rooms.functions.ports import FUNCTIONS, INVOCATIONS, Errand, ErrandResult, Errands
from skyloom.rooms.registry.services import ServiceMethod
from skyloom.rooms.serving.model import StopEndpoint
from skyloom.rooms.serving.ports import ENDPOINTS, REPLICAS
from skyloom.rooms.serving.service import Serving
from skyloom.rooms.tenancy.service import Tenancy

log = logging.getLogger("skyloom.functions")
# Calls on their way: of all projects, of one, of one function. Long calls of one project hold up no other's.
_AT_ONCE, _AT_ONCE_PROJECT, _AT_ONCE_EACH = 512, 64, 16
_COLD_S = 90.0  # beside its own time, a call may take so long until somebody is awake to take it
_LONGEST_S, _SHORTEST_S = 30.0, 0.05
_PRUNED_AT_ONCE = 500
_NO_PORT_S = 0.3
_NUM_JOBS = 5


class Functions:
    """Functions of all projects, and the calls that wait for them."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        tenancy: Tenancy,
        serving: Serving,
        errands: Errands,
        ended: EndedCalls,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._tenancy = tenancy
        self._serving = serving
        self._errands = errands
        self._ended = ended
        self._of: dict[str, tuple[str, str]] = {}  # errand → function, project
        self._unsettled: list[ErrandResult] = []  # what came back, until it is written down
        self._prune_at = 0.0
        # Told which collections a round wrote to; whoever builds the cloud lets it wake the loops that watch them.
        self.notice: Callable[[set[str]], None] = lambda touched: None

    def handlers(self) -> Handlers:
        return {
            model.DeployFunction: Change(self.deploy, before=self.check),
            model.GetFunction: Query(self.get),
            model.ListFunctions: Query(self.list),
            model.DeleteFunction: Change(self.delete),
            model.InvokeFunction: Change(self.invoke),
            model.GetInvocation: Query(self.get_invocation),
            model.ListInvocations: Query(self.list_invocations),
            model.RetryInvocation: Change(self.retry),
        }

    # Functions

    def check(self, ask: model.DeployFunction, by: Caller) -> None:
        """Refuse what could never run."""
        self._serving.check(rules.deployment(ask), by)

    def deploy(self, tx: Transaction, ask: model.DeployFunction, by: Caller) -> FunctionStatus:
        known = named(tx, FUNCTIONS, ask.name, by.project)
        taken = named(tx, ENDPOINTS, ask.name, by.project)
        if taken and not taken.stopped_by and (known is None or known.endpoint_id != taken.id):
            raise model.FunctionNameTaken(
                f"{ask.name} is an endpoint, and no function.", next_action="Choose another name: --name."
            )
        endpoint = self._serving.deploy(tx, rules.deployment(ask), by).endpoint
        if known is None:
            made = CloudFunction(
                id=self._ids.new("fn"),
                project=by.project,
                name=ask.name,
                endpoint_id=endpoint.id,
                max_attempts=ask.max_attempts,
                created_at=self._clock.now(),
                created_by=by.principal,
            )
            known = tx.insert(FUNCTIONS, made)
        elif (known.max_attempts, known.endpoint_id) != (ask.max_attempts, endpoint.id):
            news = {"max_attempts": ask.max_attempts, "endpoint_id": endpoint.id}
            known = tx.update(FUNCTIONS, changed(known, news))
        status = self._status(tx, known)
        if not self._serving.methods(tx, endpoint, newest=True):
            raise model.NotAFunction(
                f"{ask.name} version {ask.version} is a model, and no Python that could be called.",
                next_action="Deploy a file of functions: skyloom function deploy FILE.py.",
            )
        return status

    def get(self, ask: model.GetFunction, by: Caller) -> FunctionStatus:
        return self._store.read(lambda view: self._status(view, self.find(view, ask.name, by.project)))

    def list(self, ask: model.ListFunctions, by: Caller) -> Page[FunctionStatus]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, FUNCTIONS, where, ask).shown(partial(self._status, view)))

    def delete(self, tx: Transaction, ask: model.DeleteFunction, by: Caller) -> Done:
        function = self.find(tx, ask.name, by.project)
        self._serving.stop(tx, StopEndpoint(name=function.endpoint_id), by)
        now, why = self._clock.now(), f"the function was deleted by {by.principal}"
        for waiting in tx.select(INVOCATIONS, {"function_id": function.id, "state": InvocationState.QUEUED}):
            self._ended.update(tx, rules.dead(waiting, why, now))
        tx.delete(FUNCTIONS, function.id)
        return Done()

    def find(self, view: Snapshot, name: str, project: str) -> CloudFunction:
        """A function by its name. Raises `FunctionMissing`."""
        found = named(view, FUNCTIONS, name, project)
        if found is None:
            raise model.FunctionMissing(
                f"There is no function {name!r}.", next_action="List yours: skyloom function list."
            )
        return found

    def method(self, view: Snapshot, function: CloudFunction, name: str) -> ServiceMethod:
        """The entry that is meant. Raises `EntryUnclear`."""
        return rules.entry(self._methods(view, function), name, function.name)

    def _methods(self, view: Snapshot, function: CloudFunction) -> tuple[ServiceMethod, ...]:
        endpoint = view.get(ENDPOINTS, function.endpoint_id)
        return self._serving.methods(view, endpoint) if endpoint else ()

    def _status(self, view: Snapshot, function: CloudFunction) -> FunctionStatus:
        endpoint = self._serving.find(view, function.endpoint_id, function.project)
        counts = {
            state: view.count(INVOCATIONS, {"function_id": function.id, "state": state})
            for state in (InvocationState.QUEUED, InvocationState.RUNNING, InvocationState.DEAD)
        }
        return FunctionStatus(
            function=function,
            endpoint=self._serving.status(view, endpoint),
            methods=self._methods(view, function),
            num_calls=self._serving.num_arrived(endpoint),
            num_waiting=counts[InvocationState.QUEUED] + counts[InvocationState.RUNNING],
            num_dead=counts[InvocationState.DEAD],
            cost=tallies.ever(view, function.project, CostBy.ENDPOINT, endpoint.id).cost,
            jobs=self._jobs_of(view, endpoint.id),
        )

    def _jobs_of(self, view: Snapshot, endpoint_id: str) -> tuple[str, ...]:
        newest = view.select(REPLICAS, {"endpoint_id": endpoint_id}, newest_first=True, limit=_NUM_JOBS)
        return tuple(replica.job_id for replica in newest)

    # Invocations

    def invoke(self, tx: Transaction, ask: model.InvokeFunction, by: Caller) -> Invocation:
        function = self.find(tx, ask.name, by.project)
        method = self.method(tx, function, ask.method)
        cause = present_cause()
        return self.enqueue(tx, function, method, ask.arguments, ask.key, by, depth=cause.depth if cause else 0)

    def enqueue(
        self,
        tx: Transaction,
        function: CloudFunction,
        method: ServiceMethod,
        arguments: str,
        key: str,
        by: Caller,
        *,
        depth: int,
        trigger: str = "",
        invocation_id: str = "",
    ) -> Invocation:
        """Queue a call. Raises `ArgumentsUnreadable`, `TooManyWaiting`, `CallKeyReused`."""
        invocation_id = invocation_id or self._ids.new("inv")
        kept = rules.arguments(method, arguments, key or invocation_id)
        if key:
            known = tx.select(INVOCATIONS, {"function_id": function.id, "key": key}, limit=1)
            if known:
                return _same(known[0], method, kept)
        _check_room(tx, function)
        now = self._clock.now()
        made = Invocation(
            id=invocation_id,
            project=function.project,
            function=function.name,
            function_id=function.id,
            method=method.name,
            arguments=kept,
            key=key or invocation_id,
            max_attempts=function.max_attempts,
            next_at=now,
            created_at=now,
            created_by=by.principal,
            token_id=by.token_id,
            trigger=trigger,
            cause=Origin(id=invocation_id, depth=depth),
        )
        return tx.insert(INVOCATIONS, made)

    def get_invocation(self, ask: model.GetInvocation, by: Caller) -> Invocation:
        return self._store.read(lambda view: self.find_invocation(view, ask.invocation_id, by.project))

    def find_invocation(self, view: Snapshot, invocation_id: str, project: str) -> Invocation:
        """An invocation by its id. Raises `InvocationMissing`."""
        found = owned(view, INVOCATIONS, invocation_id, project)
        if found is None:
            raise model.InvocationMissing(
                f"There is no invocation {invocation_id}.", next_action="List them: skyloom function calls."
            )
        return found

    def list_invocations(self, ask: model.ListInvocations, by: Caller) -> Page[Invocation]:
        where: dict[str, Scalar] = {"project": by.project}
        if ask.function is not None:
            where["function"] = ask.function
        if ask.state is not None:
            where["state"] = ask.state
        return self._store.read(lambda view: listed(view, INVOCATIONS, where, ask))

    def retry(self, tx: Transaction, ask: model.RetryInvocation, by: Caller) -> Invocation:
        found = self.find_invocation(tx, ask.invocation_id, by.project)
        if found.state is not InvocationState.DEAD:
            return found
        if not found.arguments:
            raise model.LetterEmpty(
                f"Invocation {found.id} cannot be sent again: its arguments made way for others.",
                next_action="Call it anew; keep more of ended calls: SKYLOOM_ANSWER_SIZE.",
            )
        function = self.find(tx, found.function, by.project)
        self.method(tx, function, found.method)
        _check_room(tx, function)
        fresh = rules.revived(found, by.principal, by.token_id, self._clock.now())
        return self._ended.update(tx, changed(fresh, {"function_id": function.id}))

    # The loop

    def tick(self) -> float:
        """Write down what came back, and make the calls whose turn it is. Returns the seconds until the next round is due."""
        touched: set[str] = set()
        self._unsettled += self._errands.results()
        while self._unsettled:
            result = self._unsettled[0]
            self._of.pop(result.id, None)
            with isolated(
                log, f"invocation {result.id}"
            ):  # a full disk comes out, and nothing that was answered is forgotten
                self._settle(result, touched)
            del self._unsettled[0]
        self._find_lost(touched)
        again_s = self._begin_due()
        self._prune()
        if touched:
            self.notice(touched)
        return again_s

    def _settle(self, result: ErrandResult, touched: set[str]) -> None:
        def work(tx: Transaction) -> None:
            invocation_id, attempts = _parts(result.id)
            found = tx.get(INVOCATIONS, invocation_id)
            if found is None or found.state is not InvocationState.RUNNING or found.attempts != attempts:
                return
            self._keep(tx, rules.settled(found, result, self._clock.now()))
            touched.update(tx.touched)

        self._store.write(work)

    def _find_lost(self, touched: set[str]) -> None:
        """Calls that are said to be on their way, and are not: an earlier control plane made them."""
        running = self._store.read(lambda view: view.select(INVOCATIONS, {"state": InvocationState.RUNNING}))
        on_way = self._errands.open()
        for one in running:
            if _errand_id(one) not in on_way:
                with isolated(log, f"invocation {one.id}"):
                    self._store.write(partial(self._lose, one))
                    touched.add(INVOCATIONS.name)

    def _lose(self, one: Invocation, tx: Transaction) -> None:
        self._keep(tx, rules.lost(one, self._clock.now()))

    def _keep(self, tx: Transaction, settled: Invocation) -> None:
        """Write down what became of a call; one whose function was deleted meanwhile waits for nobody."""
        if settled.state is InvocationState.QUEUED and tx.get(FUNCTIONS, settled.function_id) is None:
            settled = rules.dead(
                settled, f"the function {settled.function} was deleted; {settled.message}", self._clock.now()
            )
        self._ended.update(tx, settled)

    def _begin_due(self) -> float:
        due, wait_s = self._store.read(self._due)
        for one in due:
            with isolated(log, f"invocation {one.id}"):
                self._begin(one)
                if _errand_id(changed(one, {"attempts": one.attempts + 1})) not in self._of:
                    wait_s = min(wait_s, _NO_PORT_S)  # nobody tells when it can be sent
        return _SHORTEST_S if due and not self._of else wait_s

    def _due(self, view: Snapshot) -> tuple[Sequence[Invocation], float]:
        """The calls whose turn it is, those of one function no more than its share; and when the next one's is.

        Each look but the last one fills the share of one more function or project, which the next look passes over.
        """
        now, free = self._clock.now(), _AT_ONCE - len(self._of)
        functions, projects = (
            (Counter(name) for name in zip(*self._of.values(), strict=True)) if self._of else (Counter(), Counter())
        )
        due: dict[str, Invocation] = {}
        while len(due) < free:
            where: Where = {
                "state": InvocationState.QUEUED,
                "function_id": Not(_full(functions, _AT_ONCE_EACH)),
                "project": Not(_full(projects, _AT_ONCE_PROJECT)),
            }
            limit = min(free, len(due) + _AT_ONCE_PROJECT)  # more than are known already, so each look goes on
            found = view.select(INVOCATIONS, where, order="next_at", limit=limit)
            for one in found:
                if one.next_at > now:
                    return list(due.values()), min(_LONGEST_S, max(_SHORTEST_S, one.next_at - now))
                has_room = functions[one.function_id] < _AT_ONCE_EACH and projects[one.project] < _AT_ONCE_PROJECT
                if one.id not in due and has_room:
                    due[one.id] = one
                    functions[one.function_id] += 1
                    projects[one.project] += 1
            if len(found) < limit:
                break
        return list(due.values()), _LONGEST_S

    def _begin(self, one: Invocation) -> None:
        """Send one: it is written first, so that a crash after this line sends it again and never forgets that it was sent."""

        def work(tx: Transaction) -> Errand | None:
            if tx.get(INVOCATIONS, one.id) != one:
                return None
            now = self._clock.now()
            function = named(tx, FUNCTIONS, one.function, one.project)
            endpoint = tx.get(ENDPOINTS, function.endpoint_id) if function and function.id == one.function_id else None
            lost = self._tenancy.lost_right(tx, one.token_id, one.project, Right.PREDICT, one.created_by)
            if function is None or endpoint is None or endpoint.stopped_by:
                lost = f"the function {one.function} was stopped"
            if lost or endpoint is None:
                self._ended.update(tx, rules.dead(one, lost, now))
                return None
            methods = {method.name: method for method in self._serving.methods(tx, endpoint)}
            if one.method not in methods:
                self._ended.update(tx, rules.dead(one, f"{one.function} has no entry {one.method} any more", now))
                return None
            if not self._serving.url(endpoint):
                tx.update(INVOCATIONS, changed(one, {"next_at": now + _NO_PORT_S}))
                return None
            running = tx.update(INVOCATIONS, rules.sent(one, now))
            return Errand(
                id=_errand_id(running),
                url=f"{self._serving.url(endpoint)}/{one.method}",
                token=self._tenancy.invoker_secret(one.project),
                body=one.arguments.encode(),
                timeout_s=methods[one.method].timeout_s + _COLD_S,
                max_bytes=model.MAX_ANSWER_BYTES,
            )

        errand = self._store.write(work)
        if errand is not None:
            self._of[errand.id] = (one.function_id, one.project)
            self._errands.begin(errand)

    def _prune(self) -> None:
        """Forget what ended long ago."""
        now = self._clock.now()
        if now < self._prune_at:
            return
        self._prune_at = now + 60.0

        def stale(view: Snapshot) -> Sequence[str]:
            kept = ((InvocationState.SUCCEEDED, model.KEEP_S), (InvocationState.DEAD, model.KEEP_DEAD_S))
            return [
                old.id
                for state, keep_s in kept
                for old in view.select(INVOCATIONS, {"state": state}, order="ended_at", limit=_PRUNED_AT_ONCE)
                if old.ended_at is not None and old.ended_at < now - keep_s
            ]

        def forget(tx: Transaction) -> None:
            for old_id in stale(tx):
                self._ended.forget(tx, old_id)

        found = self._store.read(stale)
        if found:
            self._store.write(forget)
        if len(found) >= _PRUNED_AT_ONCE:
            self._prune_at = now + 1.0  # there is more than one round forgets

    def close(self) -> None:
        """Begin nothing more."""
        self._errands.close()


def _full(calls: Counter[str], most: int) -> tuple[str, ...]:
    """Who has as many calls on their way as it may."""
    return tuple(name for name, count in calls.items() if count >= most)


def _check_room(view: Snapshot, function: CloudFunction) -> None:
    """Raise `TooManyWaiting` when no further call of a function may wait."""
    if view.count(INVOCATIONS, {"function_id": function.id, "state": InvocationState.QUEUED}) >= model.MAX_WAITING:
        raise model.TooManyWaiting(
            f"{model.MAX_WAITING} calls of {function.name} wait already.", next_action="Call it again later."
        )


def _same(known: Invocation, method: ServiceMethod, arguments: str) -> Invocation:
    if known.method != method.name or known.arguments not in ("", arguments):  # "": they made way for others
        raise model.CallKeyReused(
            f"The key {known.key!r} was used for another call of {known.function}.",
            next_action="Use a new key for a new call.",
        )
    return known


def _errand_id(invocation: Invocation) -> str:
    return f"{invocation.id}.{invocation.attempts}"


def _parts(errand_id: str) -> tuple[str, int]:
    invocation_id, _, attempts = errand_id.rpartition(".")
    return invocation_id, int(attempts)
