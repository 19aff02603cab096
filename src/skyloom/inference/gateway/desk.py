"""One endpoint's requests: who takes each, who waits, what is sent again, what is counted. It reads no body and no file."""

import functools
import random
import secrets
import time
from collections.abc import Callable

from skyloom.core.errors import SkyloomError
from skyloom.inference.gateway.choice import RouteSplit
from skyloom.inference.gateway.crew import BackendLane, Crew, RetryBudget
from skyloom.inference.gateway.forwarding import Heads, answer_fields, ending, request_id, status_of_call, timeout_s
from skyloom.inference.gateway.held import HeldRequests
from skyloom.inference.gateway.numbers import RouteCounter
from skyloom.inference.gateway.passage import Passage
from skyloom.inference.gateway.replies import beginning_of, response_to, status_of
from skyloom.inference.gateway.shadows import Shadows
from skyloom.inference.gateway.trouble import Trouble
from skyloom.inference.gateway.upstream import ReplicaLinks, Reply
from skyloom.inference.gateway.words import AllBusy, CallerLate, NoReplica, draining, failed, too_many, troubled
from skyloom.inference.wire.messages import Fields, Request, Response
from skyloom.inference.wire.site import Streaming
from skyloom.inference.wire.status import HTTP_STATUS
from skyloom.rooms.serving.plan import Limits
from skyloom.rooms.serving.routes import EndpointRoute, RouteTraffic

MAX_TRIES = 3
_CLIENT_LEFT = 499
# Of the time that a replica lets a request wait. Long texts take minutes, and who hangs is ended by the control plane before this.
_SILENCE_FACTOR = 30
_MAX_UNSENT_BYTES = 2**18
_MAX_ANSWER_BYTES = 2**26


class RouteDesk:
    """What stands before one endpoint. Lives on one event loop.

    Args:
        on_wake: called when a request begins to wait for a revision that has no replica.
    """

    def __init__(
        self, route: EndpointRoute, limits: Limits, chance: random.Random, on_wake: Callable[[], None]
    ) -> None:
        self._limits = limits
        self._chance = chance
        self._on_wake = on_wake
        self._heads = Heads()
        self._budget = RetryBudget()
        self._crews: dict[str, Crew] = {}
        self._links: dict[BackendLane, ReplicaLinks] = {}
        self._retired: dict[BackendLane, ReplicaLinks] = {}
        self._held = HeldRequests(route.max_held, limits.max_queue_bytes)
        self._ids = secrets.token_hex(6).encode()
        self._is_closed = False
        self._shadows = Shadows()
        self.numbers = RouteCounter(route.endpoint, time.perf_counter())
        self.update(route)

    # -- the table ----------------------------------------------------------------------------------------------------------

    def update(self, route: EndpointRoute) -> None:
        """Take over a new table: who is there now, and how they share. Those who wait are looked at again, in their order."""
        self.route = route
        self._split = RouteSplit(route)
        self._held.max_held = route.max_held
        shares = {share.revision: share.backends for share in route.shares}
        for revision in self._crews.keys() | shares.keys():
            crew = self._crews.get(revision)
            if crew is None:
                crew = self._crews[revision] = Crew(self._chance, route.max_in_flight, self._limits.max_queue_bytes)
            crew.max_open = route.max_in_flight
            for gone in crew.update(shares.get(revision, ())):
                self._retired[gone] = self._links.pop(gone)
                self._retired[gone].close()
            for lane in crew.lanes:
                if lane not in self._links:
                    silence_s = self._limits.timeout_s * _SILENCE_FACTOR
                    self._links[lane] = ReplicaLinks(lane.backend, self, silence_s, _MAX_ANSWER_BYTES)
        for revision in self._crews.keys() - shares.keys():
            del self._crews[revision]
        self.numbers.keep(shares, (shadow.revision for shadow in route.shadows))
        for passage in self._held.take_all():
            passage.revision = self._split.choose(passage.request.head.headers, passage.draw)
            self._held.add(passage)
        self._dispatch_all()

    # -- requests -----------------------------------------------------------------------------------------------------------

    def take(self, request: Request, exchange: Streaming, *, is_call: bool) -> None:
        """Bring a request that was let in to a replica, now or when there is one; the exchange is answered in any case."""
        passage = Passage(request, exchange, self._chance.random(), is_call=is_call)
        now = passage.arrived_at
        passage.hold_until = now + self.route.hold_s
        if is_call and (wait_s := timeout_s(request.head.headers)) is not None:
            passage.deadline = now + wait_s
        self.numbers.arrived += 1
        passage.number = self.numbers.arrived
        self._budget.arrived()
        passage.revision = self._split.choose(request.head.headers, passage.draw)
        exchange.on_cut = functools.partial(self._cut, passage)
        crew = self._crews.get(passage.revision)
        if crew is not None and not self._held.waits(passage.revision):
            lane = crew.pick(now, passage.size_bytes)
            if lane is not None:
                self.numbers.waited(0.0)
                self._send(passage, lane, now)
                return
        if self._is_closed:
            self._fail(passage, draining(), now)
        elif self._held.has_room(passage.size_bytes):
            self._hold(passage, now)
        else:
            self._fail(passage, too_many(len(self._held)), now)

    def _hold(self, passage: Passage, now: float, *, first: bool = False) -> None:
        passage.was_held = True
        self._held.add(passage, first=first)
        self.numbers.moved(now, held=1)
        crew = self._crews.get(passage.revision)
        if crew is None or not crew.lanes:
            self._on_wake()

    def _unhold(self, passage: Passage, now: float) -> None:
        if self._held.remove(passage):
            self.numbers.moved(now, held=-1)

    def _dispatch(self, revision: str) -> None:
        """Send those who wait for a revision, as far as it takes them."""
        crew = self._crews.get(revision)
        if crew is None or not self._held.waits(revision):
            return
        now = time.perf_counter()
        while (passage := self._held.first(revision)) is not None:
            size = passage.size_bytes
            # Who was tried is asked again rather than that all others wait behind.
            lane = crew.pick(now, size, passage.tried) or crew.pick(now, size)
            if lane is None:
                return
            self._unhold(passage, now)
            self.numbers.waited(now - passage.arrived_at)
            self._send(passage, lane, now)

    def _dispatch_all(self) -> None:
        for revision in self._held.revisions():
            self._dispatch(revision)

    def _send(self, passage: Passage, lane: BackendLane, now: float) -> None:
        passage.lane = lane
        passage.num_tries += 1
        lane.num_open += 1
        lane.open_bytes += passage.size_bytes
        if passage.exchange is not None:
            self.numbers.moved(now, in_flight=1)
        links = self._links[lane]
        left_s = None if passage.deadline is None else passage.deadline - now
        head = self._heads.written(passage.request.head) + ending(links.host, passage.size_bytes, left_s)
        links.send(passage, head)

    def _release(self, passage: Passage, now: float) -> BackendLane:
        """The replica has this one no more."""
        lane = passage.lane
        assert lane is not None
        passage.lane = None
        lane.num_open -= 1
        lane.open_bytes -= passage.size_bytes
        if passage.exchange is not None:
            self.numbers.moved(now, in_flight=-1)
        else:
            self._shadows.done(passage.size_bytes)
        return lane

    def _cut(self, passage: Passage) -> None:
        """Nobody waits for this one any more."""
        now = time.perf_counter()
        passage.is_over = True
        self._unhold(passage, now)
        if passage.lane is not None:
            if passage.begun_at is None or passage.is_call:
                # It took longer than that: a revision that hangs must not look like one that nobody asks.
                self._count(passage, _CLIENT_LEFT, now)
            links = self._links_of(passage.lane)
            self._release(passage, now)
            links.cancel(passage)
            self._dispatch(passage.revision)

    def _links_of(self, lane: BackendLane) -> ReplicaLinks:
        return self._links.get(lane) or self._retired[lane]

    # -- what replicas say (`Receiver`) -------------------------------------------------------------------------------------

    def replied(self, passage: Passage, reply: Reply) -> None:
        """A whole answer."""
        now = time.perf_counter()
        lane = self._release(passage, now)
        status = status_of(reply, is_call=passage.is_call)
        if not self._declined(passage, lane, status, now):
            self._answer(passage, status, response_to(reply, is_call=passage.is_call), now)
        self._dispatch(passage.revision)

    def began(self, passage: Passage, reply: Reply) -> None:
        """The head of an answer in parts."""
        exchange, passage.begun_at = passage.exchange, time.perf_counter()
        assert passage.lane is not None
        self._judge(passage, passage.lane, reply.status, passage.begun_at)
        if not passage.is_call:  # what a call comes to stands behind its last part
            self._count(passage, reply.status, passage.begun_at)
        if exchange is not None:
            exchange.on_room = functools.partial(self._links_of(passage.lane).resume, passage)
            exchange.begin(self._named(passage, beginning_of(reply)))

    def heard(self, passage: Passage, part: bytes) -> bool:
        """A part of an answer; False while its client does not take them."""
        if passage.exchange is None:
            return True
        passage.exchange.push(part)
        return passage.exchange.num_unsent <= _MAX_UNSENT_BYTES

    def ended(self, passage: Passage, trailers: Fields) -> None:
        """All parts were heard."""
        now = time.perf_counter()
        self._release(passage, now)
        passage.is_over = True
        if passage.is_call:
            self._count(passage, status_of_call(dict(trailers), 200), passage.begun_at or now)
        if passage.exchange is not None:
            passage.exchange.finish(answer_fields(trailers) if passage.is_call else ())
            self._shadow(passage, now)
        self._dispatch(passage.revision)

    def broke(self, passage: Passage, trouble: Trouble) -> None:
        """There is no answer, or not all of it."""
        now = time.perf_counter()
        lane = self._release(passage, now)
        crew = self._crews.get(passage.revision)
        if crew is not None and trouble is Trouble.UNREACHED:
            crew.refused(lane, now)
        elif crew is not None:
            crew.answered(lane, now, failed=True)
        if passage.begun_at is not None:
            passage.is_over = True
            if passage.is_call:
                self._count(passage, 503, passage.begun_at)
            if passage.exchange is not None:
                passage.exchange.break_off()
        elif trouble is Trouble.UNREACHED and passage.exchange is not None and not self._is_late(passage, now):
            passage.num_tries -= 1  # nothing was sent, so this was no try
            self._again(passage, lane, now)
        elif trouble is not Trouble.LOST or not _is_repeatable(passage) or not self._try_again(passage, lane, now):
            self._fail(passage, troubled(trouble), now)
        self._dispatch(passage.revision)

    def _judge(self, passage: Passage, lane: BackendLane, status: int, now: float) -> None:
        crew = self._crews.get(passage.revision)
        if crew is not None and status == 503:
            crew.refused(lane, now)
        elif crew is not None:
            crew.answered(lane, now, failed=status >= 500)

    def _declined(self, passage: Passage, lane: BackendLane, status: int, now: float) -> bool:
        """True when the replica takes nothing now and another one is asked."""
        self._judge(passage, lane, status, now)
        return status == 503 and self._try_again(passage, lane, now)

    def _try_again(self, passage: Passage, lane: BackendLane, now: float) -> bool:
        """Send a request a second time if that is allowed: it was declined, or inference changes nothing."""
        if passage.exchange is None or passage.num_tries >= MAX_TRIES or self._is_late(passage, now):
            return False
        if not self._budget.take():
            return False
        self._again(passage, lane, now)
        return True

    def _again(self, passage: Passage, lane: BackendLane, now: float) -> None:
        passage.tried = (*passage.tried[-MAX_TRIES:], lane)
        crew = self._crews.get(passage.revision)
        if crew is None:  # the revision was taken away meanwhile
            passage.revision = self._split.choose(passage.request.head.headers, passage.draw)
            crew = self._crews.get(passage.revision)
        other = crew.pick(now, passage.size_bytes, passage.tried) if crew is not None else None
        if other is not None:
            self._send(passage, other, now)
        elif self._is_closed:
            self._fail(passage, draining(), now)
        else:
            self._hold(passage, now, first=True)

    def _is_late(self, passage: Passage, now: float) -> bool:
        return now >= passage.hold_until or (passage.deadline is not None and now >= passage.deadline)

    # -- answers ------------------------------------------------------------------------------------------------------------

    def _answer(self, passage: Passage, status: int, response: Response, now: float) -> None:
        passage.is_over = True
        self._count(passage, status, now)
        if passage.exchange is not None:
            passage.exchange.answer(self._named(passage, response))
            self._shadow(passage, now)

    def _count(self, passage: Passage, status: int, now: float) -> None:
        count = self.numbers.shadowed if passage.exchange is None else self.numbers.answered
        count(passage.revision, status, now - passage.arrived_at)

    def _fail(self, passage: Passage, error: SkyloomError, now: float) -> None:
        self._answer(passage, HTTP_STATUS[error.category], failed(error, is_call=passage.is_call), now)

    def _named(self, passage: Passage, response: Response) -> Response:
        """Put the request's id on its answer: the caller's own, or one of ours."""
        name = request_id(passage.request, b"%b-%x" % (self._ids, passage.number))
        response.headers = (*response.headers, (b"x-request-id", name))
        return response

    def _shadow(self, passage: Passage, now: float) -> None:
        """Send copies to whom the table says. Nobody waits for them, and there are never many."""
        if not self.route.shadows or not passage.num_tries or passage.request.head.method != b"POST":
            return
        for shadow in self.route.shadows:
            crew = self._crews.get(shadow.revision)
            if crew is None or shadow.revision == passage.revision or self._chance.random() >= shadow.fraction:
                continue
            lane = crew.pick(now, passage.size_bytes)
            if lane is None or not self._shadows.begin(passage.size_bytes):
                continue
            copy = Passage(passage.request, None, 0.0, is_call=passage.is_call)
            copy.revision, copy.arrived_at = shadow.revision, now
            self._send(copy, lane, now)

    # -- time ---------------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Answer those who waited too long, and try those who rest. Called some times a second."""
        if not len(self._held):
            return
        now = time.perf_counter()
        for passage in [one for one in self._held if self._is_late(one, now)]:
            self._give_up(passage, self._why_late(passage, now), now)
        self._dispatch_all()

    def turn_away(self, refusal: Callable[[Request], SkyloomError | None]) -> None:
        """Answer those who wait and may not any more, so that they wake nobody. ``refusal`` says why; None: they may."""
        now = time.perf_counter()
        for passage in list(self._held):
            if (error := refusal(passage.request)) is not None:
                self._give_up(passage, error, now)

    def _give_up(self, passage: Passage, error: SkyloomError, now: float) -> None:
        """Answer one that waits; not one that the answer to another in its stream has ended."""
        if not passage.is_over:
            self._unhold(passage, now)
            self._fail(passage, error, now)

    def _why_late(self, passage: Passage, now: float) -> SkyloomError:
        crew = self._crews.get(passage.revision)
        if passage.deadline is not None and now >= passage.deadline:
            return CallerLate("The caller's time is over.", next_action="Give the call more time.")
        if crew is not None and any(lane.num_open for lane in crew.lanes):
            return AllBusy("All replicas are busy.", next_action="Send again in a moment, or deploy more replicas.")
        return NoReplica("No replica answers yet.", next_action="Send again in a moment: one may be starting.")

    def sweep(self) -> None:
        """Close what is idle, give up what is silent. Called about once a second."""
        now = time.perf_counter()
        for links in (*self._links.values(), *self._retired.values()):
            links.sweep(now)
        self._retired = {lane: links for lane, links in self._retired.items() if links.is_busy}

    def traffic(self, *, closes: bool) -> RouteTraffic:
        """What was seen; ``closes`` begins a new time for means."""
        now = time.perf_counter()
        oldest = min((passage.arrived_at for passage in self._held), default=now)
        return self.numbers.traffic(now, now - oldest, closes=closes)

    @property
    def num_held(self) -> int:
        """Requests that wait."""
        return len(self._held)

    @property
    def is_idle(self) -> bool:
        """True when nobody waits."""
        return not self.numbers.in_flight and not len(self._held)

    def close(self) -> None:
        """Answer those who still wait, and let go of the replicas."""
        now = time.perf_counter()
        self._is_closed = True
        for passage in self._held.take_all():
            self.numbers.moved(now, held=-1)
            self._fail(passage, draining(), now)
        for links in self._links.values():
            links.close()


def _is_repeatable(passage: Passage) -> bool:
    """Whether twice is as good as once. An endpoint of somebody's own Python may do something: what was lost on its way may be done."""
    head = passage.request.head
    return passage.is_call or head.method == b"GET" or head.target.startswith((b"/v2", b"/invocations"))
