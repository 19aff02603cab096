"""Safe change from Python: how an endpoint's traffic is split, going back, canaries, and the revisions side by side."""

from collections.abc import Mapping, Sequence

from skyloom.rooms.sampling.model import CollectSamples, GetSampling, LogOff, LogTo, SamplingStatus
from skyloom.rooms.serving import change
from skyloom.rooms.serving.judging import GetQuality, QualityReport
from skyloom.rooms.serving.model import EndpointStatus
from skyloom.rooms.serving.samples import RequestSampling
from skyloom.rooms.serving.split import KEEP_S, Comparison, HeaderChoice, TrafficSplit
from skyloom.sdk.watching import WatchCalls


class ChangeCalls(WatchCalls):
    """The part of ``cloud.endpoints`` that changes what serves them."""

    def route(
        self,
        name: str,
        shares: Mapping[int, float],
        *,
        headers: Sequence[tuple[str, str, int]] = (),
        sticky_header: str = "",
        shadows: Mapping[int, float] | None = None,
        keep_s: float = KEEP_S,
    ) -> EndpointStatus:
        """Split an endpoint's traffic over its revisions. Returns at once; it holds as soon as their replicas answer.

        Args:
            shares: revision → weight, relative to each other.
            headers: (header, value, revision): such requests go there, whatever the weights say.
            sticky_header: requests with the same value of it go to the same revision.
            shadows: revision → part of all requests that it is sent a copy of.
            keep_s: how long a revision that loses all its traffic is kept ready for `rollback`.
        """
        rules = tuple(HeaderChoice(header=header, value=value, revision=number) for header, value, number in headers)
        split = TrafficSplit(shares=dict(shares), rules=rules, sticky_header=sticky_header, shadows=dict(shadows or {}))
        return self._transport.send(change.SetSplit(name=name, split=split, keep_s=keep_s))

    def rollback(self, name: str) -> EndpointStatus:
        """Give all the traffic back to the revision that had all of it before. Raises `NothingToGoBackTo`."""
        return self._transport.send(change.RollBack(name=name))

    def promote(self, name: str) -> EndpointStatus:
        """Give the canary all the traffic now. Raises `NoCanary`."""
        return self._transport.send(change.PromoteCanary(name=name))

    def abort(self, name: str) -> EndpointStatus:
        """End the canary; its traffic goes back. Raises `NoCanary`."""
        return self._transport.send(change.AbortCanary(name=name))

    def compare(self, name: str) -> Comparison:
        """The revisions that share an endpoint's traffic, side by side."""
        return self._transport.send(change.CompareRevisions(name=name))

    def log_to(
        self,
        name: str,
        dataset: str,
        sampling: RequestSampling | None = None,
        *,
        every_s: float = 3_600.0,
        keep_days: float = 30.0,
        max_rows: int = 1_000_000,
        max_bytes: int = 256 * 2**20,
    ) -> SamplingStatus:
        """Keep some of its requests and answers as rows of a dataset, redacted before they are written.

        Args:
            sampling: which rows, and what of them; a tenth of all, whole, if None.
            every_s: how often what waits is taken into the dataset.
            keep_days, max_rows: what newer versions hold at most.
            max_bytes: of one replica's samples that wait.
        """
        ask = LogTo(
            name=name,
            dataset=dataset,
            sampling=sampling or RequestSampling(),
            every_s=every_s,
            keep_days=keep_days,
            max_rows=max_rows,
            max_bytes=max_bytes,
        )
        return self._transport.send(ask)

    def sampling(self, name: str) -> SamplingStatus:
        """What is kept of its requests, and how far that has come. Raises `NotSampled`."""
        return self._transport.send(GetSampling(name=name))

    def collect(self, name: str) -> SamplingStatus:
        """Take the samples that wait into the dataset now. Returns at once. Raises `NotSampled`."""
        return self._transport.send(CollectSamples(name=name))

    def log_off(self, name: str) -> SamplingStatus:
        """Keep no more of its requests; what waits is still taken. Raises `NotSampled`."""
        return self._transport.send(LogOff(name=name))

    def quality(self, name: str, window_s: float = 7 * 86_400.0, points: int = 60) -> QualityReport:
        """How good its answers are, by revision and over time, from the labels that were given; see `FeedbackCalls.give`."""
        return self._transport.send(GetQuality(name=name, window_s=window_s, points=points))
